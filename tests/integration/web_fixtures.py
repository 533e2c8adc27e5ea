"""Fixtures of the web tests: `pytest_plugins = ["tests.integration.web_fixtures"]`."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS
from tasks.settings import Settings
from tests.integration.web_harness import SOON_SECONDS, Player, RedisServer, Server, serving


@pytest.fixture(scope="module")
def redis_of_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def server(redis_of_web: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A web server for all tests of a module."""
    with serving(redis_of_web.url, tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.fixture(scope="module")
def short_interval_server(
    redis_of_web: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that sends keep-alives after SOON_SECONDS."""
    folder = tmp_path_factory.mktemp("web")
    with serving(redis_of_web.url, folder, TEST_KEEP_ALIVE_SECONDS=str(SOON_SECONDS)) as running:
        yield running


@pytest.fixture
def web_redis(redis_of_web: RedisServer) -> Iterator[Redis]:
    """A client of the web server's Redis, which is empty."""
    with Redis.from_url(redis_of_web.url, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def player(web_redis: Redis, redis_of_web: RedisServer) -> Iterator[Player]:
    settings = Settings(redis_url=redis_of_web.url, model_id="m", max_num_seqs=4)
    with Player(web_redis, settings) as playing:
        yield playing


@pytest.fixture
def client(server: Server, web_redis: Redis) -> Iterator[httpx.Client]:
    """A client of a server without jobs."""
    web_redis.ping()
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_SECONDS) as opened:
        yield opened
