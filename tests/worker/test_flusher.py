"""The flusher with a real engine and a real Redis; the test plays Celery."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from harness.proxy import Proxy
from harness.redis_server import free_port, start_redis
from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tasks.connection import connect
from tasks.job import FinishReason, Job, JobError, Status
from tasks.leases import Leases, Outcome
from tasks.log import StatusEntry, TokenEntry
from tasks.reaper import Reaper
from tasks.request import JobRequest, parse_request
from tasks.scripts import Offer, Scripts
from tasks.settings import EngineKind, Settings
from tasks.store import Store
from worker.engine.base import Engine, Prompt
from worker.engine.echo import EchoEngine
from worker.flusher import Flusher

LONG = {"max_tokens": 3000}


class CeleryTask:
    """A task as Celery's pool holds it. `outcome` is set when the worker has finished it."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.was_accepted = False
        self.outcome: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()

    def accepted(self) -> None:
        self.was_accepted = True

    def ended(self, outcome: Outcome | None) -> None:
        self.outcome.put(outcome)

    def wait(self) -> Outcome | None:
        return self.outcome.get(timeout=TIMEOUT_SECONDS)


class SureDelivery:
    """A delivery monitor for tests, which lose no messages."""

    def send_probe(self) -> None: ...

    def received(self) -> None: ...

    def is_overdue(self) -> bool:
        return False


class Worker:
    """A flusher. With `deliver` its offers are delivered at once; otherwise the test calls `send`."""

    def __init__(self, settings: Settings, deliver: bool = True, engine: Engine | None = None) -> None:
        self.redis: Any = connect(settings)
        self.tasks: dict[str, CeleryTask] = {}
        self.deliver = deliver
        self.store = Store(Scripts(self.redis, settings, self.send_offers))
        self._of_leases: Any = connect(settings)
        leases = Leases(Scripts(self._of_leases, settings, self.send_offers))
        engine = engine or EchoEngine(settings)
        self.flusher = Flusher(engine, leases, settings, "w1", SureDelivery())

    def send_offers(self, offers: Sequence[Offer]) -> None:
        for _, job_id in offers:
            if self.deliver and job_id not in self.tasks:
                self.send(job_id)

    def send(self, job_id: str) -> CeleryTask:
        task = self.tasks[job_id] = CeleryTask(job_id)
        self.flusher.submit(task)
        return task

    def submit(self, **body: Any) -> str:
        return self.store.submit(parse_request({"prompt": "a b", **body}), "ada").job_id

    def wait(self, job_id: str) -> Outcome | None:
        return eventually(lambda: self.tasks.get(job_id)).wait()  # type: ignore[union-attr]

    def started(self, job_id: str) -> Job:
        eventually(lambda: self.store.get(job_id).completion_tokens)
        return self.store.get(job_id)

    def end(self) -> None:
        self.flusher.drain(0)
        eventually(lambda: not self.flusher.is_alive())
        for redis in (self.redis, self._of_leases):
            # A traceback may keep them alive, and then nothing else would close them in time.
            redis.connection_pool.disconnect()


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(
        redis_url=redis_url,
        engine=EngineKind.ECHO,
        max_num_seqs=4,
        lease_seconds=1,
        echo_step_seconds=0.005,
    )


@pytest.fixture
def worker(settings: Settings) -> Iterator[Worker]:
    running = Worker(settings)
    running.flusher.start()
    yield running
    running.end()


def test_a_job_from_claim_to_end(worker: Worker) -> None:
    job_id = worker.submit(max_tokens=4, n=2)
    assert worker.wait(job_id) == Outcome(Status.COMPLETED)
    job = worker.store.get(job_id)
    assert [choice.text for choice in job.output] == ["a b a b"] * 2
    assert (job.prompt_tokens, job.completion_tokens) == (2, 8)
    assert worker.tasks[job_id].was_accepted


def test_a_task_without_an_offer_is_refused(worker: Worker) -> None:
    task = worker.send("job_unknown")
    assert task.wait() is None
    assert not task.was_accepted


def test_cancel_frees_the_slots_for_the_next_job(worker: Worker) -> None:
    wide = worker.submit(n=4, **LONG)
    worker.started(wide)
    waiting = worker.submit(n=4, max_tokens=2)
    worker.store.cancel(wide)
    outcome = worker.wait(wide)
    assert outcome == Outcome(Status.CANCELLED)
    assert worker.wait(waiting) == Outcome(Status.COMPLETED)
    choices = worker.store.get(wide).output
    assert [choice.finish_reason for choice in choices] == [FinishReason.CANCELLED] * 4
    assert all(choice.text.startswith("a b") for choice in choices)


def test_a_suspect_job_gets_a_worker_of_its_own(worker: Worker) -> None:
    """It may have killed two workers. It waits until this worker is idle, and other jobs wait for it."""
    companion = worker.submit(**LONG)
    worker.started(companion)
    worker.deliver = False
    suspect = worker.submit(max_tokens=100)
    worker.redis.hset(keys.job(suspect), "fails", 2)
    worker.send(suspect)
    late = worker.submit(max_tokens=1)
    worker.send(late)
    worker.store.cancel(companion)
    assert worker.wait(suspect) == Outcome(Status.COMPLETED)
    assert worker.wait(late) == Outcome(Status.COMPLETED)
    first, second, third = (worker.store.get(job_id) for job_id in (companion, suspect, late))
    assert (first.ended_at or 0) <= (second.started_at or 0)
    assert (second.ended_at or 0) <= (third.started_at or 0)


def test_timeout_keeps_partial_output(worker: Worker) -> None:
    job_id = worker.submit(timeout=0.3, **LONG)
    outcome = worker.wait(job_id)
    job = worker.store.get(job_id)
    assert outcome == Outcome(Status.FAILED, job.error)
    assert (job.status, job.output[0].finish_reason) == (Status.FAILED, FinishReason.TIMEOUT)
    assert job.output[0].text.startswith("a b")


def test_an_over_long_prompt_fails_with_the_numbers(worker: Worker) -> None:
    job_id = worker.submit(prompt="w " * 4096)
    worker.wait(job_id)
    error = worker.store.get(job_id).error
    assert error is not None
    assert (error.code, "4096" in error.message) == ("prompt_too_long", True)


def test_a_job_that_moved_on_is_dropped(worker: Worker) -> None:
    job_id = worker.submit(**LONG)
    worker.started(job_id)
    worker.redis.hset(keys.job(job_id), "token", "another worker's")
    before = worker.store.read_log(job_id)
    assert worker.wait(job_id) is None
    after = worker.store.read_log(job_id)
    assert len(after) <= len(before) + 1, "at most one entry was being written when the token changed"
    short = worker.submit(max_tokens=1)
    assert worker.wait(short) == Outcome(Status.COMPLETED)


def test_leases_are_renewed_without_new_tokens(worker: Worker, settings: Settings) -> None:
    """In a long step, the whole batch would lose its leases if only tokens renewed them."""
    job_id = worker.submit(stop="never", max_tokens=3000)
    worker.started(job_id)
    first = worker.redis.zscore(keys.leases("echo:echo"), job_id)
    eventually(lambda: worker.redis.zscore(keys.leases("echo:echo"), job_id) > first + settings.lease_seconds)
    assert len(worker.store.get(job_id).attempts) == 1


def test_many_prompts_that_are_slow_to_tokenize_cost_no_lease(settings: Settings) -> None:
    """They come at once, as after another worker's death. Claimed jobs are renewed in between."""

    class SlowTokenizer(EchoEngine):
        def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
            time.sleep(settings.lease_seconds / 2)
            return super().encode(request, now)

    worker = Worker(settings, engine=SlowTokenizer(settings))
    reaper = Reaper(Scripts(connect(settings), settings, worker.send_offers))
    jobs = [worker.submit(max_tokens=4) for _ in range(4)]
    reaper.start()
    worker.flusher.start()
    for job_id in jobs:
        assert worker.wait(job_id) == Outcome(Status.COMPLETED)
        assert len(worker.store.get(job_id).attempts) == 1
    reaper.stop()
    worker.end()


def test_a_prompt_that_is_slow_to_tokenize_costs_other_jobs_no_lease(settings: Settings) -> None:
    """Other jobs keep getting tokens, too."""
    is_let_go = threading.Event()

    class SlowTokenizer(EchoEngine):
        def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
            if request.prompt == "slow":
                assert is_let_go.wait(TIMEOUT_SECONDS)
            return super().encode(request, now)

    worker = Worker(settings, engine=SlowTokenizer(settings))
    worker.flusher.start()
    companion = worker.submit(**LONG)
    worker.started(companion)
    slow = worker.submit(prompt="slow", max_tokens=1)
    tokens = worker.store.get(companion).completion_tokens
    score = eventually(lambda: worker.redis.zscore(keys.leases("echo:echo"), slow))
    eventually(
        lambda: worker.redis.zscore(keys.leases("echo:echo"), slow) > score + 2 * settings.lease_seconds
    )
    assert worker.store.get(companion).completion_tokens > tokens
    is_let_go.set()
    assert worker.wait(slow) == Outcome(Status.COMPLETED)
    worker.store.cancel(companion)
    assert worker.wait(companion) == Outcome(Status.CANCELLED)
    assert [len(worker.store.get(job_id).attempts) for job_id in (companion, slow)] == [1, 1]
    worker.end()


def test_a_job_is_cancelled_while_its_prompt_is_tokenized(settings: Settings) -> None:
    is_let_go = threading.Event()

    class SlowTokenizer(EchoEngine):
        def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
            assert is_let_go.wait(TIMEOUT_SECONDS)
            return super().encode(request, now)

    worker = Worker(settings, engine=SlowTokenizer(settings))
    worker.flusher.start()
    job_id = worker.submit()
    eventually(lambda: worker.store.get(job_id).status is Status.IN_PROGRESS)
    worker.store.cancel(job_id)
    assert worker.wait(job_id) == Outcome(Status.CANCELLED)
    is_let_go.set()
    worker.end()


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


def test_drain_gives_back_jobs_that_do_not_end_in_time(settings: Settings) -> None:
    first = Worker(settings)
    first.flusher.start()
    job_id = first.submit(prompt=" ".join(f"w{i}" for i in range(500)), max_tokens=500)
    first.started(job_id)
    first.deliver = False
    first.end()
    assert first.tasks[job_id].wait() is None
    assert first.store.get(job_id).attempts[0].reason == "drained"
    assert first.store.workers() == []
    second = Worker(settings)
    second.flusher.start()
    assert second.wait(job_id) == Outcome(Status.COMPLETED)
    job = second.store.get(job_id)
    assert job.output[0].text == " ".join(f"w{i}" for i in range(500))
    assert [attempt.number for attempt in job.attempts] == [1, 2]
    second.end()


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
    process.kill()
    process.wait()
    eventually(
        lambda: "Redis cannot be reached" in caplog.text
    )  # For longer than the client retries by itself.
    process, _ = start_redis(tmp_path, *durable, port=port)
    assert worker.wait(job_id) == Outcome(Status.COMPLETED)
    assert worker.store.get(job_id).output[0].token_ids == list(range(300))
    worker.end()
    process.kill()
    process.wait()
