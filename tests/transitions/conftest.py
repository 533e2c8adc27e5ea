"""The harness of one test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from tasks.scripts import Scripts
from tasks.settings import Settings
from tests.transitions.batch_harness import BatchHarness, RepeatedScripts
from tests.transitions.harness import Harness


@pytest.fixture
def harness(redis: Redis, settings: Settings) -> Harness:
    return Harness(redis, settings)


@pytest.fixture(params=[Scripts, RepeatedScripts])
def batches(request: pytest.FixtureRequest, redis: Redis, settings: Settings) -> Iterator[BatchHarness]:
    """A harness whose calls are all repeated, and one whose calls are not. A worker has four slots."""
    harness = BatchHarness(redis, settings, request.param)
    harness.worker(4)
    yield harness
    redis.config_set("maxmemory", 0)
