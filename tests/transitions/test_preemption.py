"""Which running jobs of priority low are asked for their slots: one rule a test, real scripts."""

from __future__ import annotations

import pytest

from tasks import keys
from tasks.leases import WorkerInfo
from tests.transitions.harness import Harness
from tests.transitions.running import Running, asked, running, running_low


@pytest.mark.parametrize("priority", ["high", "normal"])
def test_a_low_job_is_asked_for_its_slot(harness: Harness, priority: str) -> None:
    harness.worker(1)
    low = running_low(harness)
    harness.submit("bob", priority=priority)
    assert low.is_asked()


@pytest.mark.parametrize("priority", ["normal", "high"])
def test_only_low_jobs_give_their_slots(harness: Harness, priority: str) -> None:
    harness.worker(1)
    job = running(harness, priority=priority)
    harness.submit("bob", priority="high")
    assert not job.is_asked()


def test_no_job_is_asked_while_a_worker_has_room(harness: Harness) -> None:
    harness.worker(2)
    low = running_low(harness)
    normal = harness.submit()
    assert harness.offered[-1] == normal
    assert not low.is_asked()


def test_no_more_jobs_are_asked_than_slots_are_needed(harness: Harness) -> None:
    harness.worker(4)
    lows = [running_low(harness) for _ in range(4)]
    harness.submit("bob", n=2)
    for _ in range(3):
        harness.worker(4)  # Each heartbeat dispatches again.
    assert len(asked(lows)) == 2
    harness.submit("eve")
    assert len(asked(lows)) == 3


def test_a_free_slot_counts_among_those_that_a_wide_job_needs(harness: Harness) -> None:
    harness.worker(3)
    lows = [running_low(harness) for _ in range(2)]
    harness.submit("bob", n=2)
    assert len(asked(lows)) == 1


def test_all_slots_that_a_wide_job_needs_come_from_one_worker(harness: Harness) -> None:
    """The worker with a free slot runs nothing of priority low. Its free slot is for the next job."""
    harness.worker(2, "w1")
    running(harness, worker="w1", n=2)
    harness.worker(2, "w2")
    lows = [running_low(harness, worker="w2") for _ in range(2)]
    harness.worker(3, "w1")
    wide = harness.submit("bob", n=2)
    assert asked(lows) == lows
    narrow = harness.submit("eve")
    assert harness.offers[-1] == ("w1", narrow)
    lows[0].give_back()
    assert wide not in harness.offered
    lows[1].give_back()
    assert harness.offers[-1] == ("w2", wide)


def test_nobody_is_asked_for_a_job_that_would_not_get_enough_slots(harness: Harness) -> None:
    harness.worker(2)
    running(harness)
    low = running_low(harness)
    wide = harness.submit("bob", n=2)
    assert not low.is_asked()
    low.complete()
    assert harness.offered[-1] != wide
    assert harness.slots_taken() == {"w1": 1}


def test_nobody_is_asked_for_a_job_that_is_not_next(harness: Harness) -> None:
    """The slot would go to the wide job, which comes first and needs more."""
    lows = []
    for worker in ("w1", "w2"):
        harness.worker(2, worker)
        running(harness, worker=worker)
        lows.append(running_low(harness, worker=worker))
    harness.submit("bob", n=2)
    harness.submit("eve")
    assert not asked(lows)


def test_no_job_takes_slots_that_are_for_another_workers_first_job(harness: Harness) -> None:
    """The narrow worker's first job waits for that worker, because the wide job comes first elsewhere."""
    harness.worker(1, "narrow")
    narrow_low = running_low(harness, worker="narrow")
    harness.worker(2, "wide")
    wide_lows = [running_low(harness, worker="wide") for _ in range(2)]
    wide = harness.submit("bob", n=2)
    narrow = harness.submit("bob")
    assert asked([narrow_low, *wide_lows]) == [narrow_low, *wide_lows]
    narrow_low.give_back()
    assert harness.offers[-1] == ("narrow", narrow)
    for low in wide_lows:
        low.give_back()
    assert harness.offers[-1] == ("wide", wide)


def test_a_low_job_that_comes_back_takes_no_slot_of_a_later_low_one(harness: Harness) -> None:
    harness.worker(1, "w1")
    first = running_low(harness, worker="w1")
    harness.worker(1, "w2")
    later = running_low(harness, worker="w2")
    harness.leases.deregister(WorkerInfo("w1", "m", "echo", 0, 0, 0.0))
    harness.make_due(keys.leases("echo:m"), first.id)
    assert harness.line() == [first.id]
    assert not later.is_asked()


def test_the_job_that_loses_least_is_asked(harness: Harness) -> None:
    harness.worker(3)
    lows = [running_low(harness, tokens) for tokens in (5, 2, 9)]
    harness.submit("bob")
    assert asked(lows) == [lows[1]]


def test_none_of_the_jobs_that_are_asked_could_be_left_out(harness: Harness) -> None:
    """The wide job frees enough alone, although the narrow one loses less."""
    harness.worker(3)
    wide_low, narrow_low = running_low(harness, 9, n=2), running_low(harness, 1)
    harness.submit("bob", n=2)
    assert asked([wide_low, narrow_low]) == [wide_low]


def test_slots_that_are_being_freed_are_kept_for_the_job_that_waits_for_them(harness: Harness) -> None:
    """One of the two jobs ends before it is released. Its slot is not for a narrow job that comes later."""
    harness.worker(2)
    lows = [running_low(harness) for _ in range(2)]
    wide = harness.submit("bob", n=2)
    narrow = harness.submit("eve", priority="low")
    assert asked(lows) == lows
    lows[0].complete()
    assert not {wide, narrow} & {*harness.offered}
    lows[1].give_back()
    assert harness.offered[-1] == wide


def test_a_job_whose_turn_has_come_keeps_its_slot(harness: Harness) -> None:
    """It would come back to the front of the line, and get its slot before the job that asked for it."""
    harness.worker(1)
    low = running_low(harness)
    harness.redis.set(keys.PREFIX + "virtual:m", 16_385)
    late = harness.submit("bob")
    assert not low.is_asked()
    low.complete()
    assert harness.offered[-1] == late


def test_a_job_is_asked_only_after_it_has_written_a_token(harness: Harness) -> None:
    """Otherwise it could be started again and again and never get any further."""
    harness.worker(1)
    low = running_low(harness, tokens=0)
    harness.submit("bob")
    assert not low.is_asked()
    assert low.write(1) is None
    harness.worker(1)
    assert low.is_asked()


def test_a_job_that_runs_alone_keeps_its_slots(harness: Harness) -> None:
    harness.worker(2)
    job_id = harness.submit(priority="low")
    for death in range(2):
        harness.claim(job_id, f"t{death}")
        harness.make_due(keys.leases("echo:m"), job_id)
    alone = Running(harness, job_id)
    assert alone.claim.is_alone
    alone.write()
    harness.submit("bob")
    assert not alone.is_asked()


def test_nobody_is_asked_for_a_job_that_has_to_run_alone(harness: Harness) -> None:
    """It may have killed two workers, so it waits until a worker is idle without any request."""
    harness.worker(1)
    low = running_low(harness, tokens=0)
    suspect = harness.submit("bob")
    harness.redis.hset(keys.job(suspect), "fails", 2)
    assert low.write() is None
    harness.worker(1)
    assert not low.is_asked()
    low.complete()
    assert harness.offered[-1] == suspect


def test_a_worker_of_the_earlier_release_is_not_asked(harness: Harness) -> None:
    """Its claims do not enter the job among the running jobs of priority low."""
    harness.worker(1)
    low = running_low(harness)
    harness.redis.hdel(keys.PREFIX + "low:echo:m", low.id)
    harness.submit("bob")
    assert not low.is_asked()


@pytest.mark.parametrize("was_asked", [False, True])
def test_a_job_that_the_earlier_release_took_over_is_not_waited_for(
    harness: Harness, was_asked: bool
) -> None:
    """Its scripts change the lease token, and leave what they do not know as it is."""
    harness.worker(2)
    lows = [running_low(harness, tokens) for tokens in (1, 2)]
    if was_asked:
        normal = harness.submit("bob")
        assert asked(lows) == lows[:1]
    harness.redis.hset(keys.job(lows[0].id), "token", "the earlier release's")
    if was_asked:
        harness.worker(2)
    else:
        normal = harness.submit("bob")
    lows[1].give_back()
    assert harness.offered[-1] == normal


def test_a_damaged_record_does_not_stop_others(harness: Harness) -> None:
    harness.worker(2)
    lows = [running_low(harness, tokens) for tokens in (1, 2)]
    harness.redis.hdel(keys.job(lows[0].id), "score", "taken")
    harness.submit("bob")
    assert lows[1].is_asked()
