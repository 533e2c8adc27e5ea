"""Redis is full: jobs are refused, no change is made halfway, and running jobs end."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from client import Client
from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tests.chaos.fleet import Fleet
from tests.integration.web_sockets import texts
from tests.reliability.followers import assert_all_work, following

SLOTS = 4
FILLER_BYTES = 32 * 1024 * 1024
"""Data that fills Redis, so that a tenth of the memory in use is more than jobs and connections need."""

LARGE_JOBS, LARGE_BYTES = 8, 900_000
"""Jobs whose prompts take several times the other memory. A body may have a mebibyte."""

NEARLY, TRULY = 1 / 0.9, 0.9
"""The ratio of the allowed memory to the memory in use."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path, 2, {"MAX_NUM_SEQS": str(SLOTS), "LEASE_SECONDS": "2"})
    yield running
    running.stop()


@pytest.fixture
def redis(fleet: Fleet) -> Iterator[Any]:
    with Redis.from_url(fleet.redis_url, decode_responses=True) as client:
        client.setrange("filler", FILLER_BYTES, "x")
        yield client


def used_memory(redis: Any) -> int:
    return int(redis.info("memory")["used_memory"])


def kept_of_jobs(redis: Any) -> dict[str, Any]:
    """Returns the keys of jobs, and how many entries each index of jobs has."""
    index = keys.owner_jobs("anonymous")
    return {
        "records and logs": sorted(redis.keys(keys.job("*")) + redis.keys(keys.log("*"))),
        "jobs": redis.zcard(index),
        "places": [
            redis.zcard(keys.line("any:echo")),
            redis.zcard(keys.offered("echo:echo")),
            redis.zcard(keys.leases("echo:echo")),
        ],
        "slots": redis.hgetall(keys.slots("echo:echo")),
        "counts": {status: count for status, count in redis.hgetall(keys.COUNTS).items() if count != "0"},
        "deadlines": redis.zcard(keys.PREFIX + "deadlines"),
        "idempotency": redis.keys(keys.PREFIX + "idempotency:*"),
    }


def submit(url: str) -> httpx.Response:
    """Submits a job with an entry in every index, with an idempotency key of its own."""
    body = {"prompt": "no room", "expires_in": 3600, "max_tokens": 1}
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    return httpx.post(f"{url}/v1/jobs", json=body, headers=headers, timeout=TIMEOUT_SECONDS)


@pytest.mark.parametrize("share", [NEARLY, TRULY], ids=["nearly full", "full"])
def test_a_full_redis_refuses_jobs_whole_and_lets_running_ones_end(
    fleet: Fleet, redis: Any, share: float
) -> None:
    with following(fleet.web.url, jobs=SLOTS, tokens=200) as jobs, Client(fleet.web.url) as client:
        unwanted = client.submit("unwanted", max_tokens=3000)
        eventually(lambda: client.get(unwanted.id).text)
        limit = int(used_memory(redis) * share)
        redis.config_set("maxmemory", limit)
        eventually(lambda: submit(fleet.web.url).status_code == 503)
        client.cancel(unwanted.id)
        assert client.wait(unwanted.id).status == "cancelled"
        for job in jobs:
            job.assert_whole()
            assert texts(list(client.stream(job.id))) == job.prompt, "a reader that comes now sees it, too"
        before = eventually(lambda: found if (found := kept_of_jobs(redis))["places"] == [0, 0, 0] else None)
        for _ in range(10):
            refusal = submit(fleet.web.url)
            assert refusal.status_code == 503
            assert refusal.json()["code"] == "unavailable"
            assert int(refusal.headers["Retry-After"]) >= 1
        assert kept_of_jobs(redis) == before
        assert (used_memory(redis) > limit) == (share is TRULY), "as full as before"
        assert (before["slots"], before["deadlines"]) == ({}, 0)
        assert [worker.process.poll() for worker in fleet.workers] == [None, None]
        redis.config_set("maxmemory", 0)
        eventually(lambda: submit(fleet.web.url).status_code == 202)
    assert_all_work(fleet, SLOTS)


def test_a_full_redis_recovers_as_ended_jobs_are_forgotten(tmp_path: Path) -> None:
    """It needs no help, because the reaper removes old jobs."""
    fleet = Fleet(tmp_path, 1, {"LEASE_SECONDS": "2", "JOB_RETENTION_SECONDS": "10"})
    try:
        with Redis.from_url(fleet.redis_url) as redis, Client(fleet.web.url) as client:
            room = used_memory(redis) + LARGE_BYTES * LARGE_JOBS // 2
            for _ in range(LARGE_JOBS):
                client.wait(client.submit("x" * LARGE_BYTES, max_tokens=1).id)
            redis.config_set("maxmemory", room)
            assert used_memory(redis) > room
            eventually(lambda: submit(fleet.web.url).status_code == 503)
            eventually(lambda: submit(fleet.web.url).status_code == 202)
    finally:
        fleet.stop()
