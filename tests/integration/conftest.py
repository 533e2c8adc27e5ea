"""Fixtures: real workers on a real Redis, and a store and a Celery app to look at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from harness.workers import WorkerProcess, start_workers
from tasks.app import JobApp
from tasks.request import parse_request
from tasks.settings import ANONYMOUS, Settings
from tasks.store import Store

StartWorkers = Callable[..., AbstractContextManager[list[WorkerProcess]]]
Submit = Callable[..., str]

ECHO = {"ENGINE": "echo", "MAX_NUM_SEQS": "4", "LEASE_SECONDS": "1"}
"""Settings of the workers that `start_echo_workers` starts, and of the store."""


@pytest.fixture
def echo_settings(redis_url: str) -> Settings:
    return Settings.model_validate(
        {name.lower(): value for name, value in ECHO.items()} | {"redis_url": redis_url}
    )


@pytest.fixture
def celery_app(echo_settings: Settings) -> Iterator[JobApp]:
    with JobApp(echo_settings) as app:
        yield app


@pytest.fixture
def store(celery_app: JobApp) -> Store:
    return Store(celery_app.scripts())


@pytest.fixture
def submit(store: Store) -> Submit:
    """A function that submits a job and returns its id."""

    def submit(prompt: str, owner: str = ANONYMOUS, **options: object) -> str:
        return store.submit(parse_request({"prompt": prompt, **options}), owner).job_id

    return submit


@pytest.fixture
def start_echo_workers(redis_url: str, tmp_path: Path) -> StartWorkers:
    """A function that starts workers by name and waits for them. Keywords are environment variables."""
    return partial(start_workers, folder=tmp_path, REDIS_URL=redis_url, **ECHO)
