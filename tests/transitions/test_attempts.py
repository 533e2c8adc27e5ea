"""Claims, lost leases, deaths, cancels and deadlines: each rule by itself, with the real Lua scripts."""

from __future__ import annotations

import pytest

from harness.writing import flush, write_of
from tasks import keys
from tasks.job import Status
from tasks.leases import Outcome, Refusal, WriteStatus
from tasks.log import TokenEntry
from tests.transitions.harness import Harness


def test_a_job_whose_worker_died_goes_to_the_front_and_stays_in_progress(harness: Harness) -> None:
    harness.worker(1)
    job_id = harness.submit()
    claim = harness.claim(job_id)
    flush(harness.leases, [write_of(job_id, claim.lease_token, 1, 3, [TokenEntry(0, (7,), " once")])])
    others = [harness.submit() for _ in range(3)]
    harness.worker(0)
    harness.make_due(keys.leases("echo:m"), job_id)
    assert harness.line() == [job_id, *others]
    job = harness.store.get(job_id)
    assert (job.status, job.output[0].text) == (Status.IN_PROGRESS, " once")
    assert job.attempts[0].reason == "lease expired"
    harness.worker(1)
    assert harness.claim(job_id, "t2").entries[1] == TokenEntry(0, (7,), " once")


def test_a_worker_that_lost_its_lease_can_do_nothing_any_more(harness: Harness) -> None:
    """The worker was paused, another one got the job, and then the first one wakes up."""
    harness.worker(1)
    stale = harness.claim(harness.submit(), "stale")
    harness.make_due(keys.leases("echo:m"), stale.job_id)
    current = harness.claim(stale.job_id, "current")
    entry = TokenEntry(0, (1,), "stale")
    writes = [
        write_of(stale.job_id, "stale", 1, 1, [entry]),
        write_of(stale.job_id, "stale", 2, 1, [entry]),
        write_of(stale.job_id, "stale", 2, 1, (), Outcome(Status.COMPLETED)),
    ]
    assert set(flush(harness.leases, writes)) == {WriteStatus.FENCED}
    assert harness.leases.release([(stale.job_id, "stale")], "drained") == 0
    assert harness.store.read_log(stale.job_id) == current.entries
    harness.complete(current)
    assert harness.store.get(stale.job_id).status is Status.COMPLETED


def test_the_fourth_death_without_a_token_is_poison(harness: Harness) -> None:
    harness.worker(1)
    job_id = harness.submit()
    for death in range(1, 5):
        assert harness.store.get(job_id).status is not Status.FAILED, death
        harness.claim(job_id, f"t{death}")
        harness.make_due(keys.leases("echo:m"), job_id)
    job = harness.store.get(job_id)
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "poison")
    assert [attempt.reason for attempt in job.attempts] == ["lease expired"] * 4


def test_a_job_that_may_have_killed_two_workers_runs_alone(harness: Harness) -> None:
    harness.worker(4)
    job_id = harness.submit()
    for death in range(2):
        assert not harness.claim(job_id, f"t{death}").is_alone
        harness.make_due(keys.leases("echo:m"), job_id)
    assert harness.leases.claim(job_id, "t2", "w1", "echo:m", free_slots=4, held=1) is Refusal.BUSY
    assert harness.claim(job_id, "t2").is_alone


def test_a_suspect_waits_for_an_idle_worker_and_runs_there_alone(harness: Harness) -> None:
    """It may not run together with other jobs, so it goes to an idle worker."""
    harness.worker(4)
    suspect = harness.submit()
    for death in range(2):
        harness.claim(suspect, f"t{death}")
        if death:
            harness.worker(0)
        harness.make_due(keys.leases("echo:m"), suspect)
    harness.worker(4)
    assert harness.offers[-1] == ("w1", suspect)
    harness.worker(0)
    running = harness.submit(priority="high")
    harness.worker(1, "w2")
    companion = harness.claim(running, worker="w2")
    harness.worker(3, "w2")
    assert harness.offered[-1] == running, "w2 is not idle"
    late = [harness.submit() for _ in range(2)]
    assert harness.offered[-1] == running, "no job overtakes it there"
    harness.complete(companion)
    assert harness.offers[-1] == ("w2", suspect)
    harness.worker(4)
    assert harness.offers[-2:] == [("w1", late[0]), ("w1", late[1])], "they do not run together with it"
    assert harness.slots_taken() == {"w1": 2, "w2": 3}
    harness.complete(harness.claim(suspect, "t2", "w2"))
    assert harness.slots_taken() == {"w1": 2}


def test_a_token_clears_the_count_of_deaths(harness: Harness) -> None:
    harness.worker(1)
    job_id = harness.submit()
    for death in range(6):
        claim = harness.claim(job_id, f"t{death}")
        if death == 2:
            flush(
                harness.leases,
                [write_of(job_id, claim.lease_token, len(claim.entries), 1, [TokenEntry(0, (1,), "a")])],
            )
        harness.make_due(keys.leases("echo:m"), job_id)
    assert harness.store.get(job_id).status is Status.IN_PROGRESS


def test_a_drained_job_does_not_count_as_a_death(harness: Harness) -> None:
    harness.worker(1)
    job_id = harness.submit()
    for attempt in range(6):
        harness.claim(job_id, f"t{attempt}")
        assert harness.leases.release([(job_id, f"t{attempt}")], "drained") == 1
    assert harness.store.get(job_id).status is Status.IN_PROGRESS


def test_a_running_job_is_cancelled_by_its_worker(harness: Harness) -> None:
    """The worker has more text to write, and ends the job with its next flush."""
    harness.worker(1)
    claim = harness.claim(harness.submit())
    harness.store.cancel(claim.job_id)
    assert harness.store.get(claim.job_id).status is Status.IN_PROGRESS
    [written] = flush(harness.leases, [write_of(claim.job_id, "t", 1, 1, (TokenEntry(0, (5,), "w"),))])
    assert written is WriteStatus.CANCEL
    flush(harness.leases, [write_of(claim.job_id, "t", 2, 1, (), Outcome(Status.CANCELLED))])
    job = harness.store.get(claim.job_id)
    assert (job.status, job.output[0].text) == (Status.CANCELLED, "w")


def test_a_cancelled_job_that_its_worker_gives_back_ends(harness: Harness) -> None:
    """The worker drained before it saw the cancel. The job must not wait for another worker."""
    harness.worker(1)
    claim = harness.claim(harness.submit())
    harness.store.cancel(claim.job_id)
    assert harness.leases.release([(claim.job_id, claim.lease_token)], "drained") == 1
    assert harness.store.get(claim.job_id).status is Status.CANCELLED


@pytest.mark.parametrize("gap", [-100.0, 100.0])
def test_no_lease_expires_across_a_gap_in_time(harness: Harness, gap: float) -> None:
    """Redis was paused or restarted, or its clock was set: every lease is renewed."""
    harness.worker(1)
    claim = harness.claim(harness.submit())
    harness.redis.zadd(keys.leases("echo:m"), {claim.job_id: 0})
    harness.redis.set(keys.PREFIX + "reaped_at", str(harness.now() - gap))
    harness.reaper.reap()
    assert harness.redis.zscore(keys.leases("echo:m"), claim.job_id) > harness.now()


def test_expires_in_ends_a_job_that_waits(harness: Harness) -> None:
    job_id = harness.submit(expires_in=60)
    harness.make_due(keys.PREFIX + "deadlines", job_id)
    job = harness.store.get(job_id)
    assert (job.status, job.error and job.error.code) == (Status.EXPIRED, "expired")


def test_an_expired_job_says_whether_a_worker_was_there(harness: Harness) -> None:
    def message(job_id: str) -> str:
        harness.make_due(keys.PREFIX + "deadlines", job_id)
        error = harness.store.get(job_id).error
        assert error is not None
        return error.message

    assert message(harness.submit(expires_in=60)) == (
        "the job waited longer than its expires_in; no worker that could run it was alive"
    )
    harness.worker(1)
    assert message(harness.submit(expires_in=60)) == "the job waited longer than its expires_in"


def test_expires_in_counts_before_the_first_start_only(harness: Harness) -> None:
    harness.worker(1)
    job_id = harness.submit(expires_in=60)
    harness.claim(job_id)
    assert harness.redis.zscore(keys.PREFIX + "deadlines", job_id) is None
    harness.make_due(keys.leases("echo:m"), job_id)
    assert harness.redis.zscore(keys.PREFIX + "deadlines", job_id) is None


def test_timeout_ends_a_job_between_two_attempts(harness: Harness) -> None:
    harness.worker(1)
    job_id = harness.submit(timeout=60)
    harness.claim(job_id)
    harness.make_due(keys.leases("echo:m"), job_id)
    harness.make_due(keys.PREFIX + "deadlines", job_id)
    job = harness.store.get(job_id)
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "timeout")


def test_a_worker_knows_whether_the_client_gave_the_seed(harness: Harness) -> None:
    harness.worker(4)
    given, drawn = harness.submit(seed=5), harness.submit()
    for job_id, is_drawn in ((given, False), (drawn, True)):
        claim = harness.claim(job_id, job_id)
        assert claim.is_seed_drawn is is_drawn
        assert claim.request.seed is not None, "engines that draw their own noise use it"
        assert harness.claim(job_id, job_id).is_seed_drawn is is_drawn, "a repeated claim has the same answer"
        flush(harness.leases, [write_of(job_id, job_id, 1, 1, (), Outcome(Status.FAILED))])
        again = harness.store.retry(job_id, "ada").job_id
        assert harness.claim(again, again).is_seed_drawn is is_drawn
        assert harness.store.get(again).request["seed"] == claim.request.seed


def test_a_record_of_an_earlier_version_counts_as_one_with_the_clients_seed(harness: Harness) -> None:
    harness.worker(4)
    job_id = harness.submit()
    harness.redis.hdel(keys.job(job_id), "seed_drawn")
    assert not harness.claim(job_id).is_seed_drawn


def test_a_flush_of_more_jobs_than_a_call_takes_answers_for_the_right_ones(harness: Harness) -> None:
    harness.worker(1)
    claim = harness.claim(harness.submit())
    unknown = [write_of(f"job_{i}", "t", 0, 1) for i in range(2 * keys.MAX_JOBS_PER_FLUSH)]
    own = keys.MAX_JOBS_PER_FLUSH + 7
    entry = TokenEntry(0, (1,), "a")
    writes = [*unknown[:own], write_of(claim.job_id, claim.lease_token, 1, 1, [entry]), *unknown[own:]]
    found = flush(harness.leases, writes)
    assert [index for index, status in enumerate(found) if status is None] == [own]
    assert harness.store.read_log(claim.job_id) == [*claim.entries, entry]
