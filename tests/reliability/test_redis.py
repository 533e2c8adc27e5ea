"""Redis is killed, restarted, paused, slow or closes connections: streams pause, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from client import Client
from harness.product import Web
from harness.proxy import Proxy
from harness.waiting import TIMEOUT_SECONDS, eventually
from harness.workers import start_workers
from tasks import keys
from tests.chaos.fleet import Fleet
from tests.integration.jobs import words
from tests.reliability.followers import assert_all_work, following, wait_until_seen

LEASE_SECONDS = 2.0
SLOTS = 4
SETTINGS = {"LEASE_SECONDS": str(LEASE_SECONDS), "MAX_NUM_SEQS": str(SLOTS), "STEP_TIMEOUT_SECONDS": "60"}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path, 2, SETTINGS)
    yield running
    running.stop()


@pytest.mark.parametrize("leases", [0.5, 1.5])
def test_a_redis_that_was_killed_costs_a_pause(fleet: Fleet, leases: float) -> None:
    with following(fleet.web.url, jobs=2 * SLOTS, tokens=200) as jobs:
        fleet.kill_redis()
        time.sleep(leases * LEASE_SECONDS)  # The length of the outage.
        fleet.start_redis()
        for job in jobs:
            job.assert_whole()
    assert_all_work(fleet, SLOTS)


def test_a_job_that_waits_for_slots_outlives_redis(fleet: Fleet) -> None:
    """No worker has enough slots for it until Redis has been restarted."""
    with Client(fleet.web.url) as client, Redis.from_url(fleet.redis_url, decode_responses=True) as redis:
        in_the_way = [client.submit("wide", n=SLOTS - 1, max_tokens=3000).id for _ in fleet.workers]
        eventually(lambda: all(client.get(job_id).text for job_id in in_the_way))
        job = client.submit(words("w", 20), n=2, max_tokens=20)
        assert redis.zscore(keys.line("any:echo", 2), job.id) is not None
        fleet.kill_redis()
        fleet.start_redis()
        for job_id in in_the_way:
            client.cancel(job_id)
        ended = client.wait(job.id, timeout=TIMEOUT_SECONDS)
        assert ended.texts == [words("w", 20)] * 2
        assert len(ended.fields["attempts"]) == 1
    assert_all_work(fleet, SLOTS)


def test_a_paused_redis_costs_a_pause(fleet: Fleet) -> None:
    """The pause exceeds the calls' time-out. They are repeated, and Redis executes all of them later."""
    with following(fleet.web.url, jobs=2 * SLOTS, tokens=200) as jobs:
        fleet.pause_redis()
        time.sleep(3 * LEASE_SECONDS)  # The outage.
        fleet.resume_redis()
        for job in jobs:
            job.assert_whole()
    assert_all_work(fleet, SLOTS)


def test_connections_that_break_again_and_again_cost_nothing(fleet: Fleet) -> None:
    with (
        Redis.from_url(fleet.redis_url) as redis,
        following(fleet.web.url, jobs=2 * SLOTS, tokens=200) as jobs,
    ):
        for seen in range(10, 200, 10):
            wait_until_seen(jobs, seen)
            for kind in ("normal", "pubsub"):
                redis.client_kill_filter(_type=kind, skipme=True)
        for job in jobs:
            job.assert_whole()
    assert_all_work(fleet, SLOTS)


def test_a_slow_redis_costs_no_lease(tmp_path: Path, redis_url: str) -> None:
    """This holds even if a worker takes many jobs at once, and the claims alone take longer than a lease."""
    slots, answer_seconds = 8, 0.3
    assert slots * answer_seconds > LEASE_SECONDS
    settings = SETTINGS | {"MAX_NUM_SEQS": str(slots), "ENGINE": "echo"}
    with (
        Proxy(redis_url) as network,
        start_workers("slow", folder=tmp_path, REDIS_URL=network.url, **settings) as (worker,),
    ):
        web = Web(network.url, tmp_path, settings)
        with web.started(), Client(web.url) as client:
            in_the_way = client.submit("wide", n=slots, max_tokens=3000)
            eventually(lambda: client.get(in_the_way.id).text)
            with following(web.url, jobs=slots, tokens=100, seen=0) as jobs:
                network.delay(answer_seconds / 2)
                client.cancel(in_the_way.id)
                for job in jobs:
                    job.assert_whole()
            network.heal()
            assert worker.process.poll() is None
