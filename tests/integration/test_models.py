"""Workers with different models on one Redis: each job runs on a worker with its model, or waits for one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.waiting import eventually
from harness.workers import WorkerProcess, start_workers
from tasks.app import JobApp
from tasks.job import Job, Status
from tasks.request import parse_request
from tasks.settings import ANONYMOUS, Settings
from tasks.store import Store
from tests.engine.tiny import save_model

JOBS = 6


@pytest.fixture
def store(redis_url: str) -> Store:
    app = JobApp(Settings(redis_url=redis_url))
    return Store(app.scripts())


@pytest.fixture
def models(tmp_path: Path) -> dict[str, str]:
    """The architecture, which is also the model's public name -> its folder."""
    return {kind: str(save_model(tmp_path / kind, kind)) for kind in ("opt", "llama")}


@contextmanager
def worker(redis_url: str, folder: Path, name: str, **environment: str) -> Iterator[WorkerProcess]:
    variables = {"REDIS_URL": redis_url, "LEASE_SECONDS": "1", "OMP_NUM_THREADS": "1", "MAX_NUM_SEQS": "4"}
    with start_workers(name, folder=folder, **variables, **environment) as [started]:
        yield started


def submit(store: Store, model: str, **options: Any) -> str:
    body = {"prompt": "a fox", "model": model, "max_tokens": 8, "ignore_eos": True, **options}
    return store.submit(parse_request(body), ANONYMOUS).job_id


def ended(store: Store, job_id: str) -> Job:
    eventually(lambda: store.get(job_id).is_ended, timeout=60)
    return store.get(job_id)


def served(store: Store) -> dict[str, list[str]]:
    """Model -> its workers."""
    return {model.id: [worker["id"] for worker in model.workers] for model in store.models()}


def test_each_job_runs_on_a_worker_of_its_model(
    redis_url: str, tmp_path: Path, store: Store, models: dict[str, str]
) -> None:
    with (
        worker(redis_url, tmp_path, "opt", MODEL_ID=models["opt"]),
        worker(redis_url, tmp_path, "llama", MODEL_ID=models["llama"]),
        worker(redis_url, tmp_path, "echo", ENGINE="echo", ECHO_STEP_SECONDS="0.001"),
    ):
        names = {"opt@test": "opt", "llama@test": "llama", "echo@test": "echo"}
        eventually(lambda: served(store) == {model: [worker_id] for worker_id, model in names.items()})
        job_ids = {submit(store, model, seed=i): model for i in range(JOBS) for model in names.values()}
        for job_id, model in job_ids.items():
            job = ended(store, job_id)
            assert (job.status, job.completion_tokens) == (Status.COMPLETED, 8)
            assert [names[attempt.worker] for attempt in job.attempts] == [model]


def test_jobs_wait_for_a_model_without_a_worker(
    redis_url: str, tmp_path: Path, store: Store, models: dict[str, str]
) -> None:
    with worker(redis_url, tmp_path, "opt", MODEL_ID=models["opt"]):
        with worker(redis_url, tmp_path, "llama", MODEL_ID=models["llama"]) as leaving:
            leaving.signal(signal.SIGTERM)
            assert leaving.wait() == 0
        waiting = submit(store, "llama")
        assert ended(store, submit(store, "opt")).status is Status.COMPLETED
        job = store.get(waiting)
        assert (job.status, job.reason) == (Status.QUEUED, "no worker serves this model at present")
        with worker(redis_url, tmp_path, "back", MODEL_ID=models["llama"]):
            assert [attempt.worker for attempt in ended(store, waiting).attempts] == ["back@test"]
