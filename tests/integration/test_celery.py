"""Jobs as Celery's own tools see them: events, inspect, revoke, AsyncResult, doubled messages, shutdown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from harness.waiting import TIMEOUT_SECONDS, eventually
from harness.workers import ROOT, WorkerProcess
from tasks.app import TASK, JobApp, celery_queue
from tasks.backend import JobFailedError, RecordBackend
from tasks.job import FinishReason, Status
from tasks.log import StatusEntry
from tasks.store import Store
from tests.integration.conftest import StartWorkers, Submit
from tests.integration.jobs import ended, started

LONG = {"max_tokens": 3000}
"""Options of a job that takes a minute with echo's default steps, longer than any test."""


@contextmanager
def task_events(app: JobApp) -> Iterator[list[tuple[str, str]]]:
    """Yields a list that gets (type, task id) of Celery's task events, as Flower receives them."""
    seen: list[tuple[str, str]] = []
    ready = threading.Event()

    def note(event: dict[str, Any]) -> None:
        if event["type"].startswith("task-"):
            seen.append((event["type"], event["uuid"]))

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        receiver.on_consume_ready = lambda *_, **__: ready.set()
        thread = threading.Thread(target=receiver.capture)
        thread.start()
        assert ready.wait(TIMEOUT_SECONDS)
        try:
            yield seen
        finally:
            receiver.should_stop = True
            thread.join()


def test_celery_sees_a_job_as_a_task_of_its_id(
    start_echo_workers: StartWorkers, celery_app: JobApp, store: Store, submit: Submit
) -> None:
    with start_echo_workers("w1"), task_events(celery_app) as seen:
        job_id = submit("one two", **LONG)
        started(store, job_id)
        active = celery_app.control.inspect(timeout=5).active() or {}
        assert [task["id"] for task in active["w1@test"]] == [job_id]
        store.cancel(job_id)
        short = submit("one two", max_tokens=3)
        eventually(lambda: ("task-succeeded", short) in seen)
        # This process sends the first event and the worker the others, so their order is not defined.
        kinds = [kind for kind, task in seen if task == short]
        assert "task-sent" in kinds
        kinds.remove("task-sent")
        assert kinds == ["task-received", "task-started", "task-succeeded"]
        eventually(lambda: ("task-revoked", job_id) in seen)


def test_async_result_agrees_with_the_record(
    start_echo_workers: StartWorkers, celery_app: JobApp, store: Store, submit: Submit
) -> None:
    waiting: AsyncResult[Any] = AsyncResult(submit("a b c", max_tokens=4), app=celery_app)
    states = [waiting.state]
    with start_echo_workers("w1"):
        assert waiting.get(timeout=20)["output"][0]["text"] == "a b c a"
        assert [*states, waiting.state] == ["PENDING", "SUCCESS"]
        failing: AsyncResult[Any] = AsyncResult(submit("word " * 5000), app=celery_app)
        with pytest.raises(JobFailedError, match=r"prompt_too_long: the prompt has 5000 tokens.* 4096"):
            failing.get(timeout=20)
        assert failing.state == "FAILURE"
        running: AsyncResult[Any] = AsyncResult(submit("a", **LONG), app=celery_app)
        eventually(lambda: running.state == "STARTED")
        store.cancel(running.id)
        with pytest.raises(TaskRevokedError):
            running.get(timeout=20)
        assert str(running.state) == "REVOKED"


READ_IN_A_POOL = """
import sys
from concurrent.futures import ThreadPoolExecutor
from celery.result import AsyncResult
import tasks

with ThreadPoolExecutor(4) as pool:
    results = pool.map(lambda job_id: AsyncResult(job_id).get(timeout=20)["output"][0]["text"], sys.argv[1:])
    print(*results, sep=",")
print(AsyncResult(sys.argv[1]).state)
"""


def test_async_result_works_in_every_thread_of_a_process_that_only_reads(
    start_echo_workers: StartWorkers, redis_url: str, submit: Submit
) -> None:
    jobs = [submit(f"job{i}", max_tokens=1) for i in range(8)]
    with start_echo_workers("w1"):
        reading = subprocess.run(
            [sys.executable, "-c", READ_IN_A_POOL, *jobs],
            cwd=ROOT,
            env=os.environ | {"REDIS_URL": redis_url},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    assert reading.stdout.split() == [",".join(f"job{i}" for i in range(8)), "SUCCESS"], reading.stderr


def test_a_process_may_have_a_default_app_of_its_own() -> None:
    """A process without a default app needs no settings to import `tasks`."""
    code = (
        "import celery; own = celery.Celery('own'); own.set_default(); import tasks; "
        "assert celery._state.default_app is own"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=TIMEOUT_SECONDS)
    bare = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    # vLLM reads every attribute of every module, and some of Celery's attributes load the default app.
    code = "import tasks, celery; assert hasattr(celery.current_app, '__dict__')"
    asked = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=bare, capture_output=True, text=True, check=True
    )
    assert "REDIS_URL is not set" in asked.stderr
    subprocess.run([sys.executable, "-c", "import tasks"], cwd=ROOT, env=bare, check=True)


def test_all_threads_share_one_store_and_one_backend(celery_app: JobApp) -> None:
    """The web server has a thread for each connection, and each would build 14 scripts and a pool."""

    def backend() -> RecordBackend:
        return cast(RecordBackend, celery_app.backend)

    with ThreadPoolExecutor(8) as pool:
        assert {id(built._store) for built in pool.map(lambda _: backend(), range(64))} == {
            id(celery_app.store)
        }
        # At first, several threads may each build a backend. Celery keeps the last one.
        assert pool.submit(backend).result() is backend()


def test_revoking_a_running_task_cancels_its_job(
    start_echo_workers: StartWorkers, celery_app: JobApp, store: Store, submit: Submit
) -> None:
    with start_echo_workers("w1"):
        job_id = submit("one two", **LONG)
        started(store, job_id)
        celery_app.control.revoke(job_id, terminate=True)
        job = ended(store, job_id)
        assert job.status is Status.CANCELLED
        assert job.output[0].text.startswith("one two")
        assert job.output[0].finish_reason is FinishReason.CANCELLED
        next_job = submit("still here", max_tokens=2)
        assert ended(store, next_job).output[0].text == "still here"


def test_revoking_a_waiting_task_cancels_its_job(
    start_echo_workers: StartWorkers, celery_app: JobApp, store: Store, submit: Submit
) -> None:
    with start_echo_workers("w1", MAX_NUM_SEQS="1"):
        running = submit("first", **LONG)
        started(store, running)
        waiting = submit("second", **LONG)
        celery_app.control.revoke(waiting)
        eventually(lambda: waiting in (celery_app.control.inspect(timeout=5).revoked() or {})["w1@test"])
        store.cancel(running)
        assert ended(store, waiting).status is Status.CANCELLED
        assert store.get(waiting).attempts == []


def test_a_doubled_or_late_message_does_no_harm(
    start_echo_workers: StartWorkers, celery_app: JobApp, store: Store, submit: Submit
) -> None:
    def send_again(job_id: str) -> None:
        queue: Any = celery_queue("w1@test")
        celery_app.send_task(TASK, (job_id,), task_id=job_id, queue=queue)

    with start_echo_workers("w1") as (worker,), task_events(celery_app) as seen:
        job_id = submit("a b", max_tokens=100)
        started(store, job_id)
        send_again(job_id)
        send_again("job_unknown")
        job = ended(store, job_id)
        send_again(job_id)
        last = submit("the end", max_tokens=2)
        ended(store, last)
        assert job.status is Status.COMPLETED
        assert job.output[0].text == " ".join(["a b"] * 50)
        assert sum(isinstance(entry, StatusEntry) for entry in store.read_log(job_id)) == 1
        eventually(lambda: seen.count(("task-received", job_id)) == 3)
        assert seen.count(("task-started", job_id)) == 1
        assert "Traceback" not in worker.output()


def test_sigterm_lets_running_jobs_end_and_claims_no_more(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    with start_echo_workers("w1", MAX_NUM_SEQS="1") as (worker,):
        running = submit("a b", max_tokens=100)
        started(store, running)
        waiting = submit("c d", max_tokens=2)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert store.get(running).status is Status.COMPLETED
        assert store.get(waiting).status is Status.QUEUED
        assert store.workers() == []


@pytest.mark.parametrize("signals", [[signal.SIGQUIT], [signal.SIGTERM, signal.SIGQUIT]])
def test_sigquit_gives_back_at_once(
    start_echo_workers: StartWorkers, store: Store, submit: Submit, signals: list[signal.Signals]
) -> None:
    """This includes a worker that drains already. The record decides, not Celery's own retry."""
    with start_echo_workers("w1", DRAIN_SECONDS="3600") as (worker,):
        job_id = submit("a b", **LONG)
        started(store, job_id)
        for number in signals:
            worker.signal(number)
            eventually(lambda: "hutdown" in worker.output())
        assert worker.wait() in (0, 1)
        assert store.get(job_id).attempts[0].reason == "drained"
        assert store.workers() == []
        assert "Traceback" not in worker.output()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_another_worker_continues_the_stream(
    start_echo_workers: StartWorkers, store: Store, submit: Submit, how: signal.Signals
) -> None:
    words = [f"w{i}" for i in range(300)]
    with start_echo_workers("w1", "w2", DRAIN_SECONDS="0", MAX_NUM_SEQS="2") as workers:
        jobs = [submit(" ".join(words), max_tokens=300, n=2) for _ in range(2)]
        first = started(store, jobs[0])
        by_id = {worker.id: worker for worker in workers}
        by_id[first.attempts[0].worker].signal(how)
        for job_id in jobs:
            job = ended(store, job_id)
            assert [choice.text for choice in job.output] == [" ".join(words)] * 2
            assert [choice.token_ids for choice in job.output] == [list(range(300))] * 2
        assert len(store.get(jobs[0]).attempts) == 2
        reason = {signal.SIGTERM: "drained", signal.SIGKILL: "lease expired"}[how]
        assert store.get(jobs[0]).attempts[0].reason == reason


def test_slots_refill_as_short_jobs_end(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    lengths = [4 + round(252 * i / 31) for i in range(32)]
    with start_echo_workers("w1", MAX_NUM_SEQS="16", ECHO_STEP_SECONDS="0.005"):
        jobs = [submit("tick tock", max_tokens=length) for length in lengths]
        done = [ended(store, job_id) for job_id in jobs]
    assert [job.completion_tokens for job in done] == lengths
    ends = [job.ended_at or 0.0 for job in done]
    assert ends == sorted(ends)
    # No job waits for the slowest one of a batch: the 17th runs while some of the first sixteen still do.
    assert (done[16].started_at or 0.0) < ends[15]


def test_a_backlog_of_one_owner_does_not_delay_another(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    with start_echo_workers("w1", MAX_NUM_SEQS="4"):
        backlog = [submit("many", owner="ada", max_tokens=20) for _ in range(500)]
        started(store, backlog[0])
        single = ended(store, submit("one", owner="bob", max_tokens=4))
        mine = (job for job in map(store.get, backlog) if job.started_at)
        before = [j for j in mine if single.created_at < (j.started_at or 0.0) < (single.started_at or 0.0)]
        assert len(before) <= 4, "only jobs that were already on offer may come before"
        for job_id in backlog:
            store.cancel(job_id)


def test_an_engine_that_hangs_is_ended(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    """The watchdog ends it, and another worker continues the job. tests/reliability pauses a process."""
    with start_echo_workers("hangs", ECHO_STEP_SECONDS="600", STEP_TIMEOUT_SECONDS="1") as (worker,):
        job_id = submit("a b", max_tokens=4)
        assert worker.wait() == 1
        assert "the engine thread stood still for longer than STEP_TIMEOUT_SECONDS=1" in worker.output()
    with start_echo_workers("works"):
        assert ended(store, job_id).output[0].text == "a b a b"


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("MODEL_ID", "/no/such/folder", "MODEL_ID=/no/such/folder"),
        ("MAX_NUM_SEQS", "none", "MAX_NUM_SEQS='none': Input should be a valid integer"),
        ("ENGINE", "vllm", "ENGINE=vllm: vLLM is not installed here"),
    ],
)
def test_a_worker_that_cannot_start_says_why(
    redis_url: str, tmp_path: Path, variable: str, value: str, line: str
) -> None:
    variables = {"REDIS_URL": redis_url, "ENGINE": "transformers", variable: value}
    worker = WorkerProcess("w1", variables, tmp_path / "w1.log")
    assert worker.wait() == 1
    assert line in worker.output()
    assert "Traceback" not in worker.output()
