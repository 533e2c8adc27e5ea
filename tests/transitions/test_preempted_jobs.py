"""Jobs that are asked for their slots: what happens to them, one rule a test, with the real Lua scripts."""

from __future__ import annotations

import json

import pytest

from tasks import keys
from tasks.job import PREEMPTED, Status
from tasks.leases import WriteStatus
from tasks.log import TokenEntry
from tests.transitions.harness import Harness
from tests.transitions.running import MAX_PREEMPTIONS, Running, running_low


def test_a_normal_job_gets_the_slot_of_a_running_low_one_which_continues_later(harness: Harness) -> None:
    harness.worker(1)
    low = running_low(harness, tokens=3)
    waiting_low = harness.submit(priority="low")
    normal = harness.submit()
    assert harness.offered == [low.id], "the slot is not free yet"
    low.give_back()
    assert harness.offered[1:] == [normal]
    Running(harness, normal).complete()
    assert harness.offered[2:] == [low.id], "it kept its turn"
    job = harness.store.get(low.id)
    assert [attempt.reason for attempt in job.attempts] == [PREEMPTED]
    again = Running(harness, low.id, "t2")
    assert [entry.text for entry in again.claim.entries if isinstance(entry, TokenEntry)] == [
        "1 ",
        "2 ",
        "3 ",
    ]
    again.complete()
    assert harness.offered[3:] == [waiting_low]


def preempted_often(harness: Harness) -> str:
    """Returns a job that was preempted as often as a job may be, and is on offer again."""
    job_id = harness.submit(priority="low")
    for number in range(MAX_PREEMPTIONS):
        low = Running(harness, job_id, f"t{number}")
        assert low.write() is None
        normal = harness.submit("bob", max_tokens=1)
        low.give_back()
        Running(harness, normal).complete()
    return job_id


def test_a_job_is_preempted_a_bounded_number_of_times(harness: Harness) -> None:
    harness.worker(1)
    low = Running(harness, preempted_often(harness))
    low.write()
    harness.submit("bob", max_tokens=1)
    assert not low.is_asked()


def test_preemptions_do_not_make_a_job_poison(harness: Harness) -> None:
    harness.worker(1)
    job_id = preempted_often(harness)
    for death in range(5):
        Running(harness, job_id, f"death {death}").write()
        harness.make_due(keys.leases("echo:m"), job_id)
    job = harness.store.get(job_id)
    assert (job.status, len(job.attempts)) == (Status.IN_PROGRESS, MAX_PREEMPTIONS + 5)


def test_a_cancelled_job_ends_and_does_not_come_back(harness: Harness) -> None:
    harness.worker(1)
    low = running_low(harness)
    normal = harness.submit("bob")
    assert low.is_asked()
    harness.store.cancel(low.id)
    assert low.write(0) is WriteStatus.CANCEL
    assert harness.leases.release([(low.id, low.claim.lease_token)], PREEMPTED) == 1
    assert harness.store.get(low.id).status is Status.CANCELLED
    assert harness.offered[-1] == normal


def test_the_timeout_of_a_preempted_job_goes_on(harness: Harness) -> None:
    harness.worker(1)
    low = running_low(harness, timeout=60)
    harness.submit("bob")
    low.give_back()
    harness.make_due(keys.PREFIX + "deadlines", low.id)
    job = harness.store.get(low.id)
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "timeout")


@pytest.mark.parametrize("end", ["drained", "died"])
def test_a_request_ends_with_the_attempt(harness: Harness, end: str) -> None:
    """The next attempt, on a worker with room for both jobs, is not asked."""
    harness.worker(1)
    low = running_low(harness)
    normal = harness.submit("bob")
    assert low.is_asked()
    if end == "drained":
        harness.worker(0)
        assert harness.leases.release([(low.id, low.claim.lease_token)], "drained") == 1
    else:
        harness.make_due(keys.leases("echo:m"), low.id)
    harness.worker(2)
    assert {*harness.offered[1:]} == {normal, low.id}
    again = Running(harness, low.id, "t2")
    assert again.write() is None
    assert not harness.redis.exists(keys.PREFIX + "yielding:echo:m")


def test_a_preempted_job_says_why_it_waits(harness: Harness) -> None:
    harness.worker(1)
    low = running_low(harness)
    harness.submit("bob")
    waiting = [harness.submit("eve") for _ in range(2)]
    low.give_back()
    reason = harness.store.get(low.id).reason
    assert reason == "it gave its slots to a job of higher priority; 2 jobs ahead"
    assert harness.store.get(waiting[0]).reason == "next in line"


def test_the_time_for_which_a_job_gave_its_slots_away_does_not_count_as_slot_time(harness: Harness) -> None:
    harness.worker(1)
    low = running_low(harness)
    now = harness.now()
    attempts = [
        {"number": 1, "worker": "w1", "started_at": now - 1010, "ended_at": now - 1000, "reason": PREEMPTED},
        {"number": 2, "worker": "w1", "started_at": now - 5},
    ]
    harness.redis.hset(keys.job(low.id), "attempts", json.dumps(attempts))
    low.complete()
    assert float(harness.redis.hget(keys.PREFIX + "stats:m", "slot_seconds")) == pytest.approx(15, abs=1)
