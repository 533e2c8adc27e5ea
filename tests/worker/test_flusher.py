"""The flusher with a real engine and a real Redis. The test plays Celery."""

from __future__ import annotations

import threading
import time

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tasks.connection import connect
from tasks.job import PREEMPTED, FinishReason, Status
from tasks.leases import Outcome
from tasks.reaper import Reaper
from tasks.request import JobRequest
from tasks.scripts import Scripts
from tasks.settings import Settings
from tests.integration.jobs import assert_echoed, words
from tests.worker.flusher_harness import LONG, CeleryTask, Worker
from worker.engine.base import Prompt
from worker.engine.echo import EchoEngine


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


def test_low_jobs_give_their_slots_to_a_wide_job_and_continue(worker: Worker) -> None:
    prompts = [words(f"low{i}", 150) for i in range(4)]
    lows = [worker.submit(prompt=prompt, max_tokens=150, priority="low") for prompt in prompts]
    for job_id in lows:
        worker.started(job_id)
    first_tasks = [worker.tasks[job_id] for job_id in lows]
    wide = worker.submit(n=3, max_tokens=3)
    assert worker.wait(wide) == Outcome(Status.COMPLETED)
    eventually(lambda: all(worker.store.get(job_id).is_ended for job_id in lows))
    jobs = [assert_echoed(worker.store, *low) for low in zip(lows, prompts, strict=True)]
    attempts = [[attempt.reason for attempt in job.attempts] for job in jobs]
    assert sorted(attempts, key=len) == [[None], *[[PREEMPTED, None]] * 3]
    for task, reasons in zip(first_tasks, attempts, strict=True):
        assert task.wait() == (Outcome(Status.COMPLETED) if len(reasons) == 1 else None)


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


def test_leases_are_renewed_between_the_claims_of_many_jobs(settings: Settings) -> None:
    """On a slow Redis the claims of all waiting jobs may take longer than a lease."""
    idle = Worker(settings, deliver=False)
    idle.flusher._announcer.beat(settings.max_num_seqs, 0)
    claims = idle.flusher._claims
    for job_id in [idle.submit() for _ in range(3)]:
        claims.add(CeleryTask(job_id))
    claims.claim_waiting(until=time.monotonic())
    assert len(claims) == 2, "the flusher renews before it claims the next one"
    claims.claim_waiting(until=time.monotonic() + TIMEOUT_SECONDS)
    assert len(claims) == 0
    for redis in (idle.redis, idle._of_leases):
        redis.connection_pool.disconnect()
