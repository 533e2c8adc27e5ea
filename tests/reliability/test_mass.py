"""A worker that runs many jobs dies. Another one takes them all over at once, each exactly once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from harness.workers import start_workers
from tasks.app import JobApp
from tasks.request import parse_request
from tasks.settings import ANONYMOUS, Settings
from tasks.store import Store
from tests.integration.conftest import StartWorkers, Submit
from tests.integration.jobs import assert_echoed, ended, started, words


def test_32_jobs_of_a_killed_worker_all_end(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    prompts = {submit(prompt, max_tokens=150): prompt for prompt in (words(f"j{i}", 150) for i in range(32))}
    with start_echo_workers("killed", MAX_NUM_SEQS="32") as (worker,):
        for job_id in prompts:
            started(store, job_id)
        worker.signal(signal.SIGKILL)
        worker.wait()
    assert not any(store.get(job_id).is_ended for job_id in prompts)
    with start_echo_workers("successor", MAX_NUM_SEQS="32"):
        for job_id, prompt in prompts.items():
            ended(store, job_id)
            assert [attempt.reason for attempt in assert_echoed(store, job_id, prompt).attempts] == [
                "lease expired",
                None,
            ]


@pytest.mark.timeout(240)
def test_64_prompts_taken_over_at_once_cost_no_lease(redis_url: str, tmp_path: Path) -> None:
    """Each prompt is prefilled together with its output, while the leases of all jobs are renewed."""
    environment = {
        "REDIS_URL": redis_url,
        "MAX_NUM_SEQS": "64",
        "LEASE_SECONDS": "1",
        "OMP_NUM_THREADS": "1",
    }
    app = JobApp(Settings(redis_url=redis_url, max_num_seqs=64))
    store = Store(app.scripts())
    # Each step prefills only some prompts, so the first jobs are some hundred tokens ahead of the last ones.
    tokens = 400
    bodies = [
        {"prompt": f"Once upon a time, there were {i} foxes. " * 25, "max_tokens": tokens, "ignore_eos": True}
        for i in range(64)
    ]
    jobs = [store.submit(parse_request(body), ANONYMOUS).job_id for body in bodies]
    with start_workers("killed", folder=tmp_path, **environment) as (worker,):
        for job_id in jobs:
            started(store, job_id, tokens=20)
        worker.signal(signal.SIGKILL)
        worker.wait()
    assert not any(store.get(job_id).is_ended for job_id in jobs)
    with start_workers("successor", folder=tmp_path, **environment):
        for job_id in jobs:
            job = ended(store, job_id, timeout=120)
            assert [attempt.worker for attempt in job.attempts] == ["killed@test", "successor@test"]
            assert (job.status, job.completion_tokens) == ("completed", tokens)
