"""The flusher when tokenizers, records or Redis fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from harness.proxy import Proxy
from harness.redis_server import free_port, start_redis
from harness.waiting import eventually
from tasks import keys
from tasks.job import PREEMPTED, JobError, Status
from tasks.leases import Outcome
from tasks.log import StatusEntry, TokenEntry
from tasks.request import JobRequest
from tasks.settings import EngineKind, Settings
from tests.integration.jobs import assert_echoed, words
from tests.worker.flusher_harness import LONG, Worker
from worker.engine.base import Prompt
from worker.engine.echo import EchoEngine


def test_a_prompt_that_cannot_be_tokenized_fails_alone(settings: Settings) -> None:
    """It fails with a reason, even if the exception has no text."""

    class UnencodableEngine(EchoEngine):
        def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
            if request.prompt == "too much":
                raise MemoryError
            return super().encode(request, now)

    worker = Worker(settings, engine=UnencodableEngine(settings))
    worker.flusher.start()
    companion, wrong = worker.submit(**LONG), worker.submit(prompt="too much")
    worker.started(companion)
    reason = JobError("engine_error", "the prompt could not be tokenized: MemoryError")
    assert worker.wait(wrong) == Outcome(Status.FAILED, reason)
    assert worker.store.get(wrong).error == reason
    worker.store.cancel(companion)
    assert worker.wait(companion) == Outcome(Status.CANCELLED)
    worker.end()


def test_output_that_cannot_be_decoded_fails_alone(settings: Settings) -> None:
    class UndecodableEngine(EchoEngine):
        def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
            prompt = super().encode(request, now)
            if request.prompt != "wrong":
                return prompt
            calls = count()

            def decode(token_ids: Sequence[int]) -> str:
                if next(calls) > 10:
                    raise KeyError("no such token")
                return prompt.decode(token_ids)

            return replace(prompt, decode=decode)

    worker = Worker(settings, engine=UndecodableEngine(settings))
    worker.flusher.start()
    companion, wrong = worker.submit(**LONG), worker.submit(prompt="wrong", n=2)
    worker.started(companion)
    reason = JobError("engine_error", "the output could not be decoded: 'no such token'")
    assert worker.wait(wrong) == Outcome(Status.FAILED, reason)
    assert worker.store.get(wrong).error == reason
    worker.store.cancel(companion)
    assert worker.wait(companion) == Outcome(Status.CANCELLED)
    worker.end()


def test_a_record_that_cannot_be_read_fails_alone(settings: Settings) -> None:
    worker = Worker(settings, deliver=False)
    worker.flusher.start()
    companion, wrong = worker.submit(**LONG), worker.submit()
    worker.redis.hset(keys.job(wrong), "request", '{"prompt": 1, "n": 1, "max_tokens": 1}')
    worker.send(companion)
    worker.started(companion)
    worker.send(wrong)
    assert worker.wait(wrong) is None
    job = worker.store.get(wrong)
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "unreadable_record")
    worker.store.cancel(companion)
    assert worker.wait(companion) == Outcome(Status.CANCELLED)
    worker.end()


def test_a_record_that_makes_the_script_fail_is_dropped_alone(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    companion, wrong = worker.submit(**LONG), worker.submit(**LONG)
    for job_id in (companion, wrong):
        worker.started(job_id)
    with worker.redis.pipeline() as at_once:
        at_once.delete(keys.log(wrong)).set(keys.log(wrong), "no list").execute()
    assert worker.wait(wrong) is None
    assert f"{wrong} cannot be written, dropping it" in caplog.text
    length = worker.store.get(companion).completion_tokens
    eventually(lambda: worker.store.get(companion).completion_tokens > length)
    worker.store.cancel(companion)
    assert worker.wait(companion) == Outcome(Status.CANCELLED)


def test_a_claim_whose_answer_was_lost_is_made_again(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis executed the claim and the worker got no answer. The worker has the job nevertheless."""
    settings = settings.model_copy(update={"lease_seconds": 12})  # No heartbeat in between.
    with Proxy(settings.required_redis_url) as network:
        worker = Worker(settings.model_copy(update={"redis_url": network.url}), deliver=False)
        direct = Worker(settings, deliver=False)
        worker.flusher.start()
        earlier, job_id = direct.submit(max_tokens=1), direct.submit(max_tokens=4)
        eventually(lambda: direct.redis.zcard(keys.offered("echo:echo")) == 2)
        worker.send(earlier)
        assert worker.wait(earlier) == Outcome(Status.COMPLETED)

        def has_given_up() -> bool:
            network.cut()
            return "Redis cannot be reached" in caplog.text

        network.hold_answers()
        worker.send(job_id)
        eventually(lambda: direct.redis.zscore(keys.leases("echo:echo"), job_id))
        eventually(has_given_up)
        network.heal()
        assert worker.wait(job_id) == Outcome(Status.COMPLETED)
        assert len(direct.store.get(job_id).attempts) == 1
        worker.end()


def test_an_outage_while_a_job_is_asked_for_its_slots_costs_time_and_nothing_else(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker gets no answer that asks for the slots, until it can reach Redis again."""
    prompt = words("low", 300)
    with Proxy(settings.required_redis_url) as network:
        own = settings.model_copy(update={"redis_url": network.url, "max_num_seqs": 1, "lease_seconds": 12})
        worker = Worker(own)
        direct = Worker(own.model_copy(update={"redis_url": settings.redis_url}), deliver=False)
        worker.flusher.start()
        low = worker.submit(prompt=prompt, max_tokens=300, priority="low")
        eventually(lambda: direct.store.get(low).completion_tokens > 2)

        def has_given_up() -> bool:
            network.cut()
            return "Redis cannot be reached" in caplog.text

        network.hold_answers()
        normal = direct.submit(max_tokens=2)
        eventually(has_given_up)
        network.heal()
        eventually(lambda: direct.store.get(low).attempts[0].reason == PREEMPTED)
        if not worker.tasks.get(normal):
            worker.send(normal)
        assert worker.wait(normal) == Outcome(Status.COMPLETED)
        eventually(lambda: direct.store.get(low).is_ended)
        assert len(assert_echoed(direct.store, low, prompt).attempts) == 2
        worker.end()


def test_entries_that_redis_lost_are_written_again(worker: Worker) -> None:
    """Redis restarted without its last second. The log becomes complete again, in the same order."""
    job_id = worker.submit(prompt=" ".join(f"w{i}" for i in range(400)), max_tokens=400)
    worker.started(job_id)
    eventually(lambda: worker.redis.llen(keys.log(job_id)) > 20)
    worker.redis.ltrim(keys.log(job_id), 0, 9)
    assert worker.wait(job_id) == Outcome(Status.COMPLETED)
    entries = worker.store.read_log(job_id)
    tokens = [entry for entry in entries if isinstance(entry, TokenEntry)]
    assert [i for entry in tokens for i in entry.token_ids] == list(range(400))
    assert sum(isinstance(entry, StatusEntry) for entry in entries) == 1


def test_an_outage_of_redis_costs_time_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port, durable = free_port(), ("--appendonly", "yes", "--appendfsync", "always")
    process, url = start_redis(tmp_path, *durable, port=port)
    settings = Settings(
        redis_url=url, engine=EngineKind.ECHO, max_num_seqs=4, lease_seconds=1, echo_step_seconds=0.005
    )
    worker = Worker(settings)
    worker.flusher.start()
    job_id = worker.submit(prompt=" ".join(f"w{i}" for i in range(300)), max_tokens=300)
    worker.started(job_id)
    assert not worker.delivery.has_forgotten
    process.kill()
    process.wait()
    eventually(
        lambda: "Redis cannot be reached" in caplog.text
    )  # For longer than the client retries by itself.
    process, _ = start_redis(tmp_path, *durable, port=port)
    assert worker.wait(job_id) == Outcome(Status.COMPLETED)
    assert worker.store.get(job_id).output[0].token_ids == list(range(300))
    assert worker.delivery.has_forgotten  # Celery lost Redis as well, and has to reconnect.
    worker.end()
    process.kill()
    process.wait()
