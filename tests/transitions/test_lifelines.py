"""A worker whose process has died loses its leases at once. A living worker keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from harness.waiting import eventually
from harness.writing import flush, write_of
from tasks import keys
from tasks.job import Status
from tasks.leases import Claim, WorkerInfo, WriteStatus
from tasks.log import TokenEntry
from tests.transitions.harness import Harness

SEVERED = keys.PREFIX + "severed"
PASSED_SECONDS = 0.3
"""Longer than a lifeline may be missing, but much shorter than a lease."""


@contextmanager
def lifeline(harness: Harness, worker: str, process: str = "p") -> Iterator[str]:
    """The worker's lifeline exists inside the context."""
    channel = keys.lifeline(worker, process)
    with harness.redis.pubsub() as subscription:
        subscription.subscribe(channel)
        eventually(lambda: subscribers(harness, channel) == 1)
        yield channel
    eventually(lambda: subscribers(harness, channel) == 0)


def subscribers(harness: Harness, channel: str) -> int:
    [(_, count)] = harness.redis.pubsub_numsub(channel)
    return int(count)


def running_job(harness: Harness, worker: str = "w1") -> Claim:
    return harness.claim(harness.submit(), worker=worker)


def place(harness: Harness, job_id: str) -> str:
    return str(harness.redis.hget(keys.job(job_id), "place"))


def look_again_later(harness: Harness) -> None:
    """Lets the reaper look twice, with enough time in between that a worker may be taken for dead."""
    harness.reap()
    pass_time(harness)
    harness.reap()


def pass_time(harness: Harness) -> None:
    """Makes the times older that Redis keeps of writes and of a missing lifeline."""
    for index in (SEVERED, keys.alive("echo:m"), keys.leases("echo:m")):
        for member, score in harness.redis.zrange(index, 0, -1, withscores=True):
            harness.redis.zadd(index, {member: score - PASSED_SECONDS})


def test_a_dead_workers_jobs_continue_at_once(harness: Harness) -> None:
    with lifeline(harness, "w1") as channel:
        harness.worker(4, lifeline=channel)
        claims = [running_job(harness) for _ in range(3)]
        harness.reap()
    harness.worker(4, "w2")
    look_again_later(harness)
    for claim in claims:
        job = harness.store.get(claim.job_id)
        assert (job.status, job.attempts[0].reason) == (Status.IN_PROGRESS, "lease expired")
        assert place(harness, claim.job_id) == "offered"
    assert harness.slots_taken() == {"w2": 3}
    assert [worker["id"] for worker in harness.store.workers()] == ["w2"]


def test_offers_that_a_dead_worker_did_not_claim_go_to_others(harness: Harness) -> None:
    with lifeline(harness, "w1") as channel:
        harness.worker(4, lifeline=channel)
        running_job(harness)
        heard = harness.submit()
        harness.reap()
    harness.worker(4, "w2")
    look_again_later(harness)
    assert [worker for worker, job_id in harness.offers if job_id == heard] == ["w1", "w2"]


def test_other_workers_keep_their_jobs(harness: Harness) -> None:
    with lifeline(harness, "w2") as standing:
        harness.worker(4, "w2", standing)
        claim = running_job(harness, "w2")
        with lifeline(harness, "w1") as channel:
            harness.worker(4, "w1", channel)
            harness.reap()
        look_again_later(harness)
    assert place(harness, claim.job_id) == "leases"


def test_a_paused_process_keeps_its_jobs(harness: Harness) -> None:
    with lifeline(harness, "w1") as channel:
        harness.worker(4, lifeline=channel)
        claim = running_job(harness)
        for _ in range(3):
            look_again_later(harness)
            assert place(harness, claim.job_id) == "leases"
            harness.redis.zadd(keys.leases("echo:m"), {claim.job_id: harness.now() + 5})


def test_a_reconnect_costs_nothing(harness: Harness) -> None:
    with lifeline(harness, "w1") as channel:
        harness.worker(4, lifeline=channel)
        claim = running_job(harness)
        harness.reap()
    harness.reap()
    assert harness.redis.zscore(SEVERED, "w1") is not None
    with lifeline(harness, "w1"):
        look_again_later(harness)
        assert harness.redis.zscore(SEVERED, "w1") is None
    assert place(harness, claim.job_id) == "leases"


@pytest.mark.parametrize("write", ["flush", "heartbeat"])
def test_a_worker_that_writes_is_not_taken_for_dead(harness: Harness, write: str) -> None:
    with lifeline(harness, "w1") as channel:
        harness.worker(4, lifeline=channel)
        claim = running_job(harness)
        harness.reap()
    for base in range(3):
        harness.reap()
        pass_time(harness)
        if write == "flush":
            entries = [TokenEntry(0, (base,), "x")]
            written = write_of(claim.job_id, claim.lease_token, base + 1, 1, entries)
            assert flush(harness.leases, [written], renew=False) == [None]
        else:
            harness.worker(4, lifeline=channel)
        harness.reap()
        assert place(harness, claim.job_id) == "leases"
    look_again_later(harness)
    assert place(harness, claim.job_id) != "leases"


def test_a_lifeline_that_was_never_seen_is_not_missed(harness: Harness) -> None:
    harness.worker(4, lifeline=keys.lifeline("w1", "p"))
    claim = running_job(harness)
    look_again_later(harness)
    assert place(harness, claim.job_id) == "leases"


def test_a_restarted_redis_takes_no_worker_for_dead(harness: Harness) -> None:
    with lifeline(harness, "w1") as channel:
        harness.worker(4, lifeline=channel)
        claim = running_job(harness)
        harness.reap()
    harness.redis.hset(keys.PREFIX + "run", "id", "another")
    look_again_later(harness)
    harness.redis.hset(keys.PREFIX + "run", "settled_at", 0)
    look_again_later(harness)
    assert place(harness, claim.job_id) == "leases"


def test_a_gap_in_time_makes_no_worker_dead(harness: Harness) -> None:
    with lifeline(harness, "w1") as channel:
        harness.worker(4, lifeline=channel)
        claim = running_job(harness)
        harness.reap()
    harness.reap()
    pass_time(harness)
    harness.redis.set(keys.PREFIX + "reaped_at", str(harness.now() - 60))
    harness.reaper.reap()
    assert place(harness, claim.job_id) == "leases"


def test_a_living_worker_that_was_taken_for_dead_cannot_write(harness: Harness) -> None:
    with lifeline(harness, "w1") as channel:
        harness.worker(4, lifeline=channel)
        claim = running_job(harness)
        harness.reap()
    look_again_later(harness)
    [written] = flush(
        harness.leases, [write_of(claim.job_id, claim.lease_token, 1, 1, [TokenEntry(0, (1,), "x")])]
    )
    assert written is WriteStatus.FENCED


def test_callers_take_turns(harness: Harness) -> None:
    """All processes together call the reaper every tenth of a second; less often while no job runs."""
    assert harness.reaper.reap() > 1
    harness.worker(4)
    running_job(harness)
    pauses: list[Any] = [harness.reaper.reap() for _ in range(5)]
    for earlier, later in pairwise(pauses):
        assert 0 < later - earlier < 0.11
    for _ in range(200):
        assert harness.reaper.reap() <= harness.settings.lease_seconds


def test_a_caller_that_comes_earlier_takes_no_turn(harness: Harness) -> None:
    """Otherwise a second of frequent calls would leave a second in which nobody looks at the lifelines."""
    harness.worker(4)
    running_job(harness)
    deadlines = keys.PREFIX + "deadlines"
    for _ in range(100):
        harness.redis.zadd(deadlines, {"job": harness.now() + 0.04})
        assert harness.reaper.reap() < 0.04
    harness.redis.zrem(deadlines, "job")
    assert harness.reaper.reap() < 0.11


def test_a_worker_deregisters(harness: Harness) -> None:
    with lifeline(harness, "w1") as channel:
        harness.worker(4, lifeline=channel)
        harness.reap()
        harness.leases.deregister(WorkerInfo("w1", "m", "echo", 0, 0, 0.0))
    assert not harness.redis.hexists(keys.PREFIX + "lifelines", "w1")
    look_again_later(harness)
