"""The order of the line, and which worker gets an offer: each rule by itself, with the real Lua scripts."""

from __future__ import annotations

import pytest

from tasks import keys
from tasks.errors import (
    InvalidRequestError,
)
from tasks.leases import Claim, Refusal, WorkerInfo
from tests.transitions.harness import Harness


def test_a_single_job_passes_another_owners_backlog(harness: Harness) -> None:
    backlog = [harness.submit("ada") for _ in range(5)]
    single = harness.submit("bob")
    assert harness.line() == [backlog[0], single, *backlog[1:]]


def test_shares_are_by_tokens_not_by_jobs(harness: Harness) -> None:
    wide = [harness.submit("ada", max_tokens=100, n=2) for _ in range(2)]
    narrow = [harness.submit("bob", max_tokens=50) for _ in range(5)]
    assert harness.line() == [wide[0], *narrow[:4], wide[1], narrow[4]]


def test_an_owner_who_comes_back_after_a_pause_starts_where_the_others_are(harness: Harness) -> None:
    """A new owner gets no credit for the time before its first job."""
    harness.worker(1)
    for _ in range(3):
        harness.complete(harness.claim(harness.submit("ada")))
    running = harness.submit("ada")
    ada = harness.submit("ada")
    bob = [harness.submit("bob") for _ in range(3)]
    assert harness.offered[-1] == running
    assert harness.line() == [bob[0], ada, *bob[1:]]


def test_a_cancelled_job_gives_its_turn_back(harness: Harness) -> None:
    cancelled = [harness.submit("ada") for _ in range(10)]
    other = [harness.submit("bob") for _ in range(2)]
    for job_id in cancelled:
        harness.store.cancel(job_id)
    late = harness.submit("ada")
    assert harness.line() == [other[0], late, other[1]]


def test_priority_is_a_bounded_head_start(harness: Harness) -> None:
    low, normal = harness.submit(priority="low"), harness.submit()
    high = [harness.submit(priority="high", max_tokens=16_384) for _ in range(3)]
    order = harness.line()
    assert order.index(normal) < order.index(high[2]), "the head start is bounded"
    assert order.index(high[0]) < order.index(normal) < order.index(low)


def test_an_owners_low_jobs_do_not_delay_its_other_jobs(harness: Harness) -> None:
    """They cost more tokens than the head start has."""
    low = [harness.submit("ada", priority="low", max_tokens=8000) for _ in range(5)]
    normal = [harness.submit("ada") for _ in range(3)]
    other = [harness.submit("bob") for _ in range(2)]
    assert {*harness.line()[:5]} == {*normal, *other}
    assert harness.line()[5:] == low


def test_low_jobs_of_an_owner_take_turns_with_those_of_others(harness: Harness) -> None:
    harness.submit("ada", max_tokens=100)
    ada = [harness.submit("ada", priority="low", max_tokens=100) for _ in range(3)]
    bob = [harness.submit("bob", priority="low", max_tokens=100) for _ in range(3)]
    order = harness.line()
    assert order.index(bob[0]) < order.index(ada[0]) < order.index(bob[2]) < order.index(ada[2])


def test_cancelled_low_jobs_give_their_turns_back(harness: Harness) -> None:
    cancelled = [harness.submit("ada", priority="low", max_tokens=8000) for _ in range(5)]
    normal = harness.submit("ada")
    for job_id in cancelled:
        harness.store.cancel(job_id)
    late = harness.submit("ada"), harness.submit("ada", priority="low")
    assert harness.line() == [normal, *late]
    tags = [float(harness.redis.hget(keys.job(job_id), "tag")) for job_id in harness.line()]
    assert tags[0] < tags[1] < tags[2] < 1000


def test_what_is_kept_of_an_owners_low_jobs_goes_when_virtual_time_has_passed_them(harness: Harness) -> None:
    harness.worker(1)
    harness.complete(harness.claim(harness.submit("ada", priority="low")))
    assert harness.redis.hget(keys.PREFIX + "low_part:m", "ada") is not None
    for _ in range(4):
        harness.complete(harness.claim(harness.submit("bob", max_tokens=200)))
    assert not harness.redis.exists(keys.PREFIX + "low_part:m")


def test_a_prioritized_job_does_not_move_new_owners_after_its_owners_backlog(harness: Harness) -> None:
    """The job's own tag is far ahead of virtual time, which must not jump there."""
    harness.worker(1)
    running = harness.submit("ada")
    backlog = [harness.submit("ada") for _ in range(10)]
    high = harness.submit("ada", priority="high")
    harness.complete(harness.claim(running))
    assert harness.offered == [running, high]
    newcomer = harness.submit("bob")
    assert harness.line() == [newcomer, *backlog]


def test_no_more_is_offered_than_there_are_free_slots(harness: Harness) -> None:
    jobs = [harness.submit(n=2) for _ in range(4)]
    assert harness.offered == []
    harness.worker(5)
    assert harness.offered == jobs[:2]
    harness.complete(harness.claim(jobs[0]))
    assert harness.offered == jobs[:3]


def test_nobody_overtakes_a_wide_job_that_waits_for_slots(harness: Harness) -> None:
    harness.worker(4)
    narrow = harness.submit(n=2)
    wide, late = harness.submit(n=4), harness.submit(n=1)
    assert harness.offered == [narrow]
    assert harness.leases.claim(narrow, "t", "w1", "echo:m", free_slots=1, held=0) is Refusal.BUSY
    harness.complete(harness.claim(narrow))
    assert harness.offered == [narrow, wide]
    harness.complete(harness.claim(wide))
    assert harness.offered == [narrow, wide, late]


def test_a_job_that_no_worker_can_hold_blocks_no_other_and_says_why(harness: Harness) -> None:
    """The only wide worker left while the job waited for it."""
    harness.worker(8)
    running = harness.claim(harness.submit(n=8))
    wide = harness.submit(n=8)
    harness.leases.release([(running.job_id, running.lease_token)], "drained")
    harness.worker(4)
    narrow = [harness.submit(n=n) for n in (1, 2, 4, 1)]
    assert harness.offered[-2:] == narrow[:2]
    for job_id in (wide, running.job_id):
        job = harness.store.get(job_id)
        assert job.reason == "no worker has the 8 slots that it takes at present; the widest has 4"
        assert job.eta_seconds is None
    assert harness.store.get(narrow[2]).queue_position == 0


def test_a_wide_worker_takes_the_job_that_waited_for_one(harness: Harness) -> None:
    wide = harness.submit(n=8)
    harness.worker(4)
    assert harness.offered == []
    harness.worker(8, "w2")
    assert harness.offers == [("w2", wide)]


def test_living_workers_decide_how_wide_a_job_may_be(harness: Harness) -> None:
    harness.submit(n=8)
    harness.worker(8)
    harness.submit(n=8)
    harness.worker(2)
    with pytest.raises(InvalidRequestError, match="n: exceeds the 2 slots of the widest worker"):
        harness.submit(n=3)
    harness.worker(4, "w2")
    harness.submit(n=3)
    harness.leases.deregister(WorkerInfo("w2", "m", "echo", 0, 0, 0.0))
    with pytest.raises(InvalidRequestError, match="n: exceeds the 2 slots"):
        harness.submit(n=3)
    harness.leases.deregister(WorkerInfo("w1", "m", "echo", 0, 0, 0.0))
    with pytest.raises(InvalidRequestError, match="n: exceeds the 2 slots"):
        harness.submit(n=3)
    assert harness.store.get(harness.submit(n=2)).reason == "no worker serves this model at present"


def test_free_slots_of_several_workers_do_not_add_up(harness: Harness) -> None:
    for worker in ("w1", "w2"):
        harness.worker(2, worker)
    narrow = [harness.submit() for _ in range(2)]
    assert sorted(worker for worker, _ in harness.offers) == ["w1", "w2"]
    wide = harness.submit(n=2)
    assert harness.offered == narrow, "each has one slot free"
    worker, job_id = harness.offers[0]
    harness.complete(harness.claim(job_id, worker=worker))
    assert harness.offers[2:] == [(worker, wide)]


def test_a_wide_job_waits_for_one_worker_and_the_others_take_what_comes_next(harness: Harness) -> None:
    harness.worker(4)
    first = [harness.claim(harness.submit(), lease_token=f"t{i}") for i in range(2)]
    wide = harness.submit(n=4)
    harness.worker(2, "w2")
    late = [harness.submit() for _ in range(4)]
    assert harness.offers[2:] == [("w2", late[0]), ("w2", late[1])]
    for claim in first:
        harness.complete(claim)
    assert harness.offers[4:] == [("w1", wide)]
    assert harness.store.get(late[2]).queue_position == 0


def test_other_wide_workers_take_what_comes_after_a_wide_job(harness: Harness) -> None:
    """The wide job waits for the worker with the most free slots, although both workers could hold it."""
    harness.worker(4, "w2")
    for i in range(3):
        harness.claim(harness.submit(), lease_token=f"t{i}", worker="w2")
    harness.worker(4)
    for i in range(3, 5):
        harness.claim(harness.submit(), lease_token=f"t{i}")
    harness.submit(n=4)
    late = harness.submit()
    assert harness.offers[-1] == ("w2", late)


def test_an_offer_that_nobody_claims_is_sent_again(harness: Harness) -> None:
    harness.worker(1)
    job_id = harness.submit()
    harness.make_due(keys.offered("echo:m"), job_id)
    assert harness.offered == [job_id, job_id]
    harness.claim(job_id)
    harness.reaper.reap()
    assert harness.offered == [job_id, job_id]


def test_a_claim_takes_no_more_slots_than_are_free(harness: Harness) -> None:
    harness.worker(4)
    job_id = harness.submit(n=2)
    assert harness.leases.claim(job_id, "t", "w1", "echo:m", free_slots=1, held=1) is Refusal.BUSY
    assert isinstance(harness.leases.claim(job_id, "t", "w1", "echo:m", free_slots=2, held=1), Claim)
