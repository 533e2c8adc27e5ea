"""A worker whose process has died loses its leases at once; one that lives never does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from redis import Redis

from tasks import keys
from tasks.job import Status
from tasks.leases import Claim, Word, WorkerInfo, Write
from tasks.log import TokenEntry
from tasks.settings import Settings
from tests.truth.house import House
from tests.waiting import eventually

SEVERED = keys.PREFIX + "severed"
PASSED_SECONDS = 0.3
"""More than a lifeline may be missing, and little of a lease."""


@pytest.fixture
def house(redis: Redis, settings: Settings) -> House:
    return House(redis, settings)


@contextmanager
def lifeline(house: House, worker: str, process: str = "p") -> Iterator[str]:
    """Stands inside of the context."""
    channel = keys.lifeline(worker, process)
    with house.redis.pubsub() as subscription:
        subscription.subscribe(channel)
        eventually(lambda: subscribers(house, channel) == 1)
        yield channel
    eventually(lambda: subscribers(house, channel) == 0)


def subscribers(house: House, channel: str) -> int:
    [(_, count)] = house.redis.pubsub_numsub(channel)
    return int(count)


def running_job(house: House, worker: str = "w1") -> Claim:
    return house.claim(house.submit(), worker=worker)


def place(house: House, job_id: str) -> str:
    return str(house.redis.hget(keys.job(job_id), "place"))


def look_again_later(house: House) -> None:
    """Two looks, between which so much time has passed that a worker might be given up."""
    house.reap()
    pass_time(house)
    house.reap()


def pass_time(house: House) -> None:
    """What Redis remembers of writes, and of a lifeline that is missing, becomes older."""
    for index in (SEVERED, keys.alive("echo:m"), keys.leases("echo:m")):
        for member, score in house.redis.zrange(index, 0, -1, withscores=True):
            house.redis.zadd(index, {member: score - PASSED_SECONDS})


def test_a_dead_workers_jobs_go_on_at_once(house: House) -> None:
    with lifeline(house, "w1") as channel:
        house.worker(4, lifeline=channel)
        claims = [running_job(house) for _ in range(3)]
        house.reap()
    house.worker(4, "w2")
    look_again_later(house)
    for claim in claims:
        job = house.store.get(claim.job_id)
        assert (job.status, job.attempts[0].reason) == (Status.IN_PROGRESS, "lease expired")
        assert place(house, claim.job_id) == "offered"
    assert house.slots_taken() == {"w2": 3}
    assert [worker["id"] for worker in house.store.workers()] == ["w2"]


def test_what_it_heard_of_and_did_not_claim_goes_to_others(house: House) -> None:
    with lifeline(house, "w1") as channel:
        house.worker(4, lifeline=channel)
        running_job(house)
        heard = house.submit()
        house.reap()
    house.worker(4, "w2")
    look_again_later(house)
    assert [worker for worker, job_id in house.offers if job_id == heard] == ["w1", "w2"]


def test_others_keep_their_jobs(house: House) -> None:
    with lifeline(house, "w2") as standing:
        house.worker(4, "w2", standing)
        claim = running_job(house, "w2")
        with lifeline(house, "w1") as channel:
            house.worker(4, "w1", channel)
            house.reap()
        look_again_later(house)
    assert place(house, claim.job_id) == "leases"


def test_a_process_that_stands_still_keeps_its_jobs(house: House) -> None:
    with lifeline(house, "w1") as channel:
        house.worker(4, lifeline=channel)
        claim = running_job(house)
        for _ in range(3):
            look_again_later(house)
            assert place(house, claim.job_id) == "leases"
            house.redis.zadd(keys.leases("echo:m"), {claim.job_id: house.store._now() + 5})


def test_a_connection_that_is_made_again_costs_nothing(house: House) -> None:
    with lifeline(house, "w1") as channel:
        house.worker(4, lifeline=channel)
        claim = running_job(house)
        house.reap()
    house.reap()
    assert house.redis.zscore(SEVERED, "w1") is not None
    with lifeline(house, "w1"):
        look_again_later(house)
        assert house.redis.zscore(SEVERED, "w1") is None
    assert place(house, claim.job_id) == "leases"


@pytest.mark.parametrize("write", ["flush", "heartbeat"])
def test_until_then_a_workers_writes_speak_for_it(house: House, write: str) -> None:
    with lifeline(house, "w1") as channel:
        house.worker(4, lifeline=channel)
        claim = running_job(house)
        house.reap()
    for base in range(3):
        house.reap()
        pass_time(house)
        if write == "flush":
            entries = [TokenEntry(0, (base,), "x")]
            [written] = house.leases.flush([Write(claim.job_id, claim.token, base + 1, 1, entries)])
            assert written.word is Word.OK
        else:
            house.worker(4, lifeline=channel)
        house.reap()
        assert place(house, claim.job_id) == "leases"
    look_again_later(house)
    assert place(house, claim.job_id) != "leases"


def test_what_was_never_seen_is_not_missed(house: House) -> None:
    house.worker(4, lifeline=keys.lifeline("w1", "p"))
    claim = running_job(house)
    look_again_later(house)
    assert place(house, claim.job_id) == "leases"


def test_a_redis_that_was_started_again_misses_nobody(house: House) -> None:
    with lifeline(house, "w1") as channel:
        house.worker(4, lifeline=channel)
        claim = running_job(house)
        house.reap()
    house.redis.hset(keys.PREFIX + "run", "id", "another")
    look_again_later(house)
    house.redis.hset(keys.PREFIX + "run", "settled_at", 0)
    look_again_later(house)
    assert place(house, claim.job_id) == "leases"


def test_a_gap_in_time_gives_nobody_up(house: House) -> None:
    with lifeline(house, "w1") as channel:
        house.worker(4, lifeline=channel)
        claim = running_job(house)
        house.reap()
    house.reap()
    pass_time(house)
    house.redis.set(keys.PREFIX + "reaped_at", str(house.store._now() - 60))
    house.reaper.reap()
    assert place(house, claim.job_id) == "leases"


def test_a_worker_that_was_given_up_wrongly_cannot_write(house: House) -> None:
    with lifeline(house, "w1") as channel:
        house.worker(4, lifeline=channel)
        claim = running_job(house)
        house.reap()
    look_again_later(house)
    [written] = house.leases.flush([Write(claim.job_id, claim.token, 1, 1, [TokenEntry(0, (1,), "x")])])
    assert written.word is Word.FENCED


def test_callers_take_turns(house: House) -> None:
    """Somebody looks every tenth of a second, however many there are; without running jobs nobody has to."""
    assert house.reaper.reap() > 1
    house.worker(4)
    running_job(house)
    pauses: list[Any] = [house.reaper.reap() for _ in range(5)]
    for earlier, later in pairwise(pauses):
        assert 0 < later - earlier < 0.11
    for _ in range(200):
        assert house.reaper.reap() <= house.settings.lease_seconds


def test_a_worker_says_goodbye(house: House) -> None:
    with lifeline(house, "w1") as channel:
        house.worker(4, lifeline=channel)
        house.reap()
        house.leases.goodbye(WorkerInfo("w1", "m", "echo", 0, 0, 0.0))
    assert not house.redis.hexists(keys.PREFIX + "lifelines", "w1")
    look_again_later(house)
