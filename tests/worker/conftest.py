"""Fixtures for tests of the flusher."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.settings import EngineKind, Settings
from tests.worker.flusher_harness import Worker


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
    """A running flusher."""
    running = Worker(settings)
    running.flusher.start()
    yield running
    running.end()
