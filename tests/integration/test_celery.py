"""Jobs in Celery's own tools: events, AsyncResult, revoke, default apps and doubled messages."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import pytest
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from harness.waiting import TIMEOUT_SECONDS, eventually
from harness.workers import ROOT
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
        kinds = [kind for kind, task in seen if task == short]
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
