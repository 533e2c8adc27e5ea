"""A real Redis for every test that needs one, and a marker for each tier of tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from redis import Redis

from harness.redis_server import start_redis
from tasks.settings import Settings

hypothesis.settings.register_profile("whole", deadline=None)
hypothesis.settings.register_profile("quick", max_examples=25, deadline=None)
"""For `make unit`, which is to take seconds."""

# No example has a deadline, because other work on the machine may slow it down.
hypothesis.settings.load_profile("whole")

TESTS = Path(__file__).parent

TIERS = {
    "unit": "unit",
    "engine": "engine",
    "training": "engine",
    "transitions": "integration",
    "worker": "integration",
    "integration": "integration",
    "browser": "browser",
    "reliability": "reliability",
    "chaos": "reliability",
}
"""Folder -> the marker of its tests: `pytest -m reliability`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = TIERS[item.path.relative_to(TESTS).parts[0]]
        item.add_marker(tier)
        if tier == "unit" and "redis_server" in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(
                f"{item.nodeid} is a unit test and starts a Redis; move it to another tier"
            )


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process, url = start_redis(tmp_path_factory.mktemp("redis"))
    yield url
    process.terminate()
    process.wait()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis."""
    with Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(redis_url=redis_url, model_id="m", max_num_seqs=4)
