"""Celery workers: they share the jobs, stop, and hand jobs over to other workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.waiting import eventually
from harness.workers import ROOT, WorkerProcess
from tasks.job import Status
from tasks.store import Store
from tests.integration.conftest import StartWorkers, Submit
from tests.integration.jobs import ended, started

LONG = {"max_tokens": 3000}
"""Options of a job that takes a minute with echo's default steps, longer than any test."""


def test_sigterm_lets_running_jobs_end_and_claims_no_more(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    with start_echo_workers("w1", MAX_NUM_SEQS="1") as (worker,):
        running = submit("a b", max_tokens=100)
        started(store, running)
        waiting = submit("c d", max_tokens=2)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert f"[{running}] ended: 'completed'" in worker.output()
        assert "succeeded in" not in worker.output(), "the time of the task's body, not the job's"
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


def test_workers_of_one_host_have_different_names(redis_url: str, store: Store) -> None:
    """Unless they are told their names."""
    command = [sys.executable, "-m", "tokenrelay", "worker", "ENGINE=echo"]
    with ExitStack() as started:
        for arguments in ([], [], ["--", "-n", "chosen@%h"]):
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=ROOT,
                env=os.environ | {"REDIS_URL": redis_url},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            started.callback(process.wait)
            started.callback(process.kill)
        eventually(lambda: len(store.workers()) == 3)
    names = {worker["id"].partition("@")[0] for worker in store.workers()}
    assert "chosen" in names
    assert len(names) == 3


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("MODEL_ID", "/no/such/folder", "MODEL_ID=/no/such/folder"),
        ("MAX_NUM_SEQS", "none", "MAX_NUM_SEQS='none': must be a whole number"),
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
