"""The Redis client of web and workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from redis import Redis

from harness.redis_server import free_port
from harness.workers import ROOT, start_workers
from tasks.connection import MAX_CONNECTIONS, connect
from tasks.durability import NO_APPEND_ONLY_FILE, check_durability
from tasks.settings import Settings
from tests.integration.web_harness import RedisServer

CALLERS = 3 * MAX_CONNECTIONS
HOLD_SECONDS = 0.1


@pytest.fixture
def redis_of_its_own(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


def test_a_burst_of_calls_is_served_by_few_connections(settings: Settings, redis: Redis) -> None:
    client = connect(settings)
    together = Barrier(CALLERS)

    def call(_: int) -> object:
        together.wait()
        return client.blpop("nothing comes", HOLD_SECONDS)

    before = len(redis.client_list())
    with ThreadPoolExecutor(CALLERS) as pool:
        assert list(pool.map(call, range(CALLERS))) == [None] * CALLERS
    assert len(redis.client_list()) - before == MAX_CONNECTIONS
    client.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_redis_that_would_drop_jobs_is_refused(redis_of_its_own: RedisServer, policy: str) -> None:
    """Each process refuses it, in one line."""
    with Redis.from_url(redis_of_its_own.url) as redis:
        redis.config_set("maxmemory-policy", policy)
    environment = os.environ | {"REDIS_URL": redis_of_its_own.url, "ENGINE": "echo"}
    for command in (
        ["gunicorn", "-c", "web/gunicorn.conf.py", "web:create_app()"],
        ["celery", "-A", "worker.app", "worker"],
    ):
        ended = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        output = ended.stdout + ended.stderr
        assert ended.returncode == 1, output
        assert f"REDIS_URL: with maxmemory-policy {policy} this Redis would drop jobs" in output
        assert "Traceback" not in output


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru"])
def test_a_redis_that_keeps_jobs_is_used(redis_of_its_own: RedisServer, policy: str) -> None:
    """Keys of jobs have no expiry in Redis, so a volatile policy never evicts them."""
    with Redis.from_url(redis_of_its_own.url) as redis:
        redis.config_set("maxmemory-policy", policy)
        check_durability(redis)


def test_a_redis_that_cannot_be_reached_is_not_refused(caplog: pytest.LogCaptureFixture) -> None:
    with Redis(port=free_port()) as redis:
        check_durability(redis)
    assert caplog.text.count("could not ask Redis how it keeps jobs") == 1


@pytest.mark.parametrize(("appendonly", "warnings"), [("no", 1), ("yes", 0)])
def test_a_redis_that_loses_jobs_when_it_dies_is_warned_of(
    redis_of_its_own: RedisServer, tmp_path: Path, appendonly: str, warnings: int
) -> None:
    """Each process says it once, when it starts."""
    with Redis.from_url(redis_of_its_own.url) as redis:
        redis.config_set("appendonly", appendonly)
    environment = {"REDIS_URL": redis_of_its_own.url, "ENGINE": "echo"}
    gunicorn = ["gunicorn", "--check-config", "-c", "web/gunicorn.conf.py", "web:create_app()"]
    web = subprocess.run(
        [sys.executable, "-m", *gunicorn],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert web.stderr.count(NO_APPEND_ONLY_FILE) == warnings, web.stderr
    with start_workers("w1", folder=tmp_path, **environment) as (worker,):
        assert worker.output().count(NO_APPEND_ONLY_FILE) == warnings, worker.output()


def test_a_redis_that_does_not_tell_its_configuration_is_used_without_a_warning(
    redis_of_its_own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Operators of managed Redis forbid CONFIG."""
    with Redis.from_url(redis_of_its_own.url) as operator:
        operator.config_set("appendonly", "no")
        operator.acl_setuser("guest", enabled=True, nopass=True, commands=["+@all", "-config"])
    with Redis(port=redis_of_its_own.port, username="guest", password="any") as redis:
        check_durability(redis)
    assert caplog.text == ""
