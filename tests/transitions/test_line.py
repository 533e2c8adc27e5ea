"""The order of the line, offers, deadlines and retention: each rule by itself, with the real Lua."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis import Redis

from tasks import keys
from tasks.errors import (
    ConflictError,
    IdempotencyConflictError,
    InvalidRequestError,
    JobNotFoundError,
    OverShareError,
    QueueFullError,
    UnavailableError,
)
from tasks.job import JobError, Status
from tasks.leases import Claim, Outcome, Refusal, WorkerInfo, Write, WriteStatus
from tasks.log import TokenEntry
from tasks.request import parse_request
from tasks.settings import Settings
from tests.transitions.harness import Harness


@pytest.fixture
def harness(redis: Redis, settings: Settings) -> Harness:
    return Harness(redis, settings)


def line(harness: Harness) -> list[str]:
    """Jobs of all widths, in their order."""
    tags: dict[str, float] = {}
    for width in range(1, 9):
        tags |= harness.redis.zrange(keys.line("any:m", width), 0, -1, withscores=True)
    return sorted(tags, key=lambda job_id: (tags[job_id], job_id))


def test_a_single_job_passes_another_owners_backlog(harness: Harness) -> None:
    backlog = [harness.submit("ada") for _ in range(5)]
    single = harness.submit("bob")
    assert line(harness) == [backlog[0], single, *backlog[1:]]


def test_shares_are_by_tokens_not_by_jobs(harness: Harness) -> None:
    wide = [harness.submit("ada", max_tokens=100, n=2) for _ in range(2)]
    narrow = [harness.submit("bob", max_tokens=50) for _ in range(5)]
    assert line(harness) == [wide[0], *narrow[:4], wide[1], narrow[4]]


def test_who_comes_back_after_a_pause_starts_where_the_others_are(harness: Harness) -> None:
    """A new owner gets no credit for the time before its first job."""
    harness.worker(1)
    for _ in range(3):
        harness.complete(harness.claim(harness.submit("ada")))
    running = harness.submit("ada")
    ada = harness.submit("ada")
    bob = [harness.submit("bob") for _ in range(3)]
    assert harness.offered[-1] == running
    assert line(harness) == [bob[0], ada, *bob[1:]]


def test_a_cancelled_job_gives_its_turn_back(harness: Harness) -> None:
    cancelled = [harness.submit("ada") for _ in range(10)]
    other = [harness.submit("bob") for _ in range(2)]
    for job_id in cancelled:
        harness.store.cancel(job_id)
    late = harness.submit("ada")
    assert line(harness) == [other[0], late, other[1]]


def test_priority_goes_first_but_not_for_ever(harness: Harness) -> None:
    low, normal = harness.submit(priority="low"), harness.submit()
    high = [harness.submit(priority="high", max_tokens=16_384) for _ in range(3)]
    order = line(harness)
    assert order.index(normal) < order.index(high[2]), "a bounded head start"
    assert order.index(high[0]) < order.index(normal) < order.index(low)


def test_a_prioritized_job_does_not_push_newcomers_behind_its_owners_backlog(harness: Harness) -> None:
    """The job's own tag lies far ahead; virtual time must not follow it there."""
    harness.worker(1)
    running = harness.submit("ada")
    backlog = [harness.submit("ada") for _ in range(10)]
    high = harness.submit("ada", priority="high")
    harness.complete(harness.claim(running))
    assert harness.offered == [running, high]
    newcomer = harness.submit("bob")
    assert line(harness) == [newcomer, *backlog]


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


def test_what_no_worker_can_hold_blocks_nobody_and_says_why(harness: Harness) -> None:
    """The wide worker left for good while the job waited for it."""
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


def test_a_wide_worker_takes_what_waited_for_one(harness: Harness) -> None:
    wide = harness.submit(n=8)
    harness.worker(4)
    assert harness.offered == []
    harness.worker(8, "w2")
    assert harness.offers == [("w2", wide)]


def test_what_lives_now_decides_how_wide_a_job_may_be(harness: Harness) -> None:
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


def test_an_offer_that_nobody_claims_is_sent_again(harness: Harness) -> None:
    harness.worker(1)
    job_id = harness.submit()
    harness.make_due(keys.offered("echo:m"), job_id)
    assert harness.offered == [job_id, job_id]
    harness.claim(job_id)
    harness.reaper.reap()
    assert harness.offered == [job_id, job_id]


def test_a_job_whose_worker_died_goes_to_the_front_and_stays_in_progress(harness: Harness) -> None:
    harness.worker(1)
    job_id = harness.submit()
    claim = harness.claim(job_id)
    harness.leases.flush([Write(job_id, claim.lease_token, 1, 3, [TokenEntry(0, (7,), " once")])])
    others = [harness.submit() for _ in range(3)]
    harness.worker(0)
    harness.make_due(keys.leases("echo:m"), job_id)
    assert line(harness) == [job_id, *others]
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
        Write(stale.job_id, "stale", 1, 1, [entry]),
        Write(stale.job_id, "stale", 2, 1, [entry]),
        Write(stale.job_id, "stale", 2, 1, (), Outcome(Status.COMPLETED)),
    ]
    assert {written.status for written in harness.leases.flush(writes)} == {WriteStatus.FENCED}
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


def test_a_suspect_waits_for_an_idle_worker_and_has_it_to_itself(harness: Harness) -> None:
    """It may not start beside other jobs, so it goes to an idle worker."""
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
    assert harness.offered[-1] == running, "nobody overtakes it there"
    harness.complete(companion)
    assert harness.offers[-1] == ("w2", suspect)
    harness.worker(4)
    assert harness.offers[-2:] == [("w1", late[0]), ("w1", late[1])], "not beside it"
    assert harness.slots_taken() == {"w1": 2, "w2": 3}
    harness.complete(harness.claim(suspect, "t2", "w2"))
    assert harness.slots_taken() == {"w1": 2}


def test_a_token_clears_the_count_of_deaths(harness: Harness) -> None:
    harness.worker(1)
    job_id = harness.submit()
    for death in range(6):
        claim = harness.claim(job_id, f"t{death}")
        if death == 2:
            harness.leases.flush(
                [Write(job_id, claim.lease_token, len(claim.entries), 1, [TokenEntry(0, (1,), "a")])]
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


def test_a_running_job_is_cancelled_by_its_worker_not_under_it(harness: Harness) -> None:
    """The worker still has text to write, and ends the job with its next flush."""
    harness.worker(1)
    claim = harness.claim(harness.submit())
    harness.store.cancel(claim.job_id)
    assert harness.store.get(claim.job_id).status is Status.IN_PROGRESS
    [written] = harness.leases.flush([Write(claim.job_id, "t", 1, 1, (TokenEntry(0, (5,), "w"),))])
    assert written.status is WriteStatus.CANCEL
    harness.leases.flush([Write(claim.job_id, "t", 2, 1, (), Outcome(Status.CANCELLED))])
    job = harness.store.get(claim.job_id)
    assert (job.status, job.output[0].text) == (Status.CANCELLED, "w")


def test_a_cancelled_job_that_its_worker_gives_back_ends(harness: Harness) -> None:
    """The worker drained before it saw the cancel, and perhaps no other worker ever comes."""
    harness.worker(1)
    claim = harness.claim(harness.submit())
    harness.store.cancel(claim.job_id)
    assert harness.leases.release([(claim.job_id, claim.lease_token)], "drained") == 1
    assert harness.store.get(claim.job_id).status is Status.CANCELLED


@pytest.mark.parametrize("gap", [-100.0, 100.0])
def test_no_lease_is_believed_to_have_run_out_across_a_gap_in_time(harness: Harness, gap: float) -> None:
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


def test_an_idempotency_key_leads_to_the_same_job(harness: Harness) -> None:
    request = parse_request({"prompt": "x"})
    first = harness.store.submit(request, "ada", "key")
    again = harness.store.submit(request, "ada", "key")
    assert (again.job_id, first.created, again.created) == (first.job_id, True, False)
    assert harness.store.submit(request, "bob", "key").created
    with pytest.raises(IdempotencyConflictError):
        harness.store.submit(parse_request({"prompt": "y"}), "ada", "key")


def test_several_jobs_are_accepted_together_or_not_at_all(redis: Redis, settings: Settings) -> None:
    harness = Harness(redis, settings.model_copy(update={"max_queued_jobs": 3}))
    requests = [parse_request({"prompt": prompt}) for prompt in "ab"]
    first = harness.store.submit_all(requests, "ada", "key")
    with pytest.raises(QueueFullError):
        harness.store.submit_all(requests, "ada", "another")
    assert harness.store.counts()[Status.QUEUED] == 2
    harness.worker(2)
    assert harness.offered == [one.job_id for one in first]
    harness.submit()
    assert harness.store.submit_all(requests, "bob", "another"), "a refused call leaves its key free"


def test_a_key_leads_to_all_jobs_of_its_call_while_one_of_them_is_there(harness: Harness) -> None:
    harness.worker(2)
    requests = [parse_request({"prompt": prompt}) for prompt in "ab"]
    first, second = (one.job_id for one in harness.store.submit_all(requests, "ada", "key"))
    assert [one.job_id for one in harness.store.submit_all(requests, "ada", "key")] == [first, second]
    with pytest.raises(IdempotencyConflictError):
        harness.store.submit_all(requests[:1], "ada", "key")
    harness.complete(harness.claim(first))
    harness.store.delete(first, "ada")
    assert [one.job_id for one in harness.store.submit_all(requests, "ada", "key")] == [first, second]
    harness.complete(harness.claim(second))
    harness.store.delete(second, "ada")
    assert all(one.created for one in harness.store.submit_all(requests, "ada", "key"))


def test_a_job_is_not_charged_for_more_than_the_models_length(harness: Harness) -> None:
    harness.worker(1, length=100)
    in_service = harness.submit("ada")
    greedy = harness.submit("ada", max_tokens=2**31 - 1)
    later = harness.submit("ada")
    others = [harness.submit("bob", max_tokens=64) for _ in range(3)]
    assert harness.offered == [in_service]
    assert line(harness) == [others[0], greedy, others[1], others[2], later]


def test_what_a_job_did_not_use_is_given_back_to_its_owner(harness: Harness) -> None:
    harness.worker(1, length=1000)
    claim = harness.claim(harness.submit("ada", max_tokens=1000))
    others = [harness.submit("bob", max_tokens=100) for _ in range(3)]
    outcome = Outcome(Status.COMPLETED, completion_tokens=50)
    harness.leases.flush([Write(claim.job_id, claim.lease_token, 1, 1, (), outcome)])
    assert harness.offered[-1] == others[0]
    ada = harness.submit("ada")
    assert line(harness) == [ada, *others[1:]]


def test_an_owners_jobs_take_no_more_than_their_share_of_the_memory(redis: Redis, settings: Settings) -> None:
    config = {"api_keys": {"a": "ada", "b": "bob"}, "owner_memory_share": 0.01}
    harness = Harness(redis, settings.model_copy(update=config))
    harness.worker(8)
    try:
        harness.redis.config_set("maxmemory", 100 * 1024 * 1024)
        harness.reap()
        big = harness.submit(prompt="x" * 900_000)
        with pytest.raises(OverShareError):
            harness.submit(prompt="x" * 900_000)
        harness.submit("bob", prompt="x" * 900_000)
        claim = harness.claim(big)
        harness.leases.flush([_futile(claim)])
        harness.make_due(keys.PREFIX + "unpacked", big)
        harness.submit(prompt="x" * 900_000)
    finally:
        harness.redis.config_set("maxmemory", 0)
    harness.reap()


def test_a_request_that_can_never_run_is_kept_cut_short(harness: Harness) -> None:
    harness.worker(8)
    messages = [{"role": "user", "content": "é" * 100_000}] * 10
    jobs = [harness.submit(prompt="x" * 900_000), harness.submit(prompt=None, messages=messages)]
    for job_id in jobs:
        harness.leases.flush([_futile(harness.claim(job_id, lease_token=job_id))])
        assert not harness.store.get(job_id).is_request_truncated
        harness.make_due(keys.PREFIX + "unpacked", job_id)
        assert harness.redis.memory_usage(keys.job(job_id), samples=0) < 8_000
        with pytest.raises(ConflictError, match="prompt_too_long, so its whole request was not kept"):
            harness.store.retry(job_id, "ada")
    of_prompt, of_messages = (harness.store.get(job_id) for job_id in jobs)
    assert of_prompt.request["prompt"] == "x" * 200
    assert [len(message["content"]) for message in of_messages.request["messages"]] == [200] * 4
    assert of_prompt.is_request_truncated
    for job_id in jobs:
        harness.store.delete(job_id, "ada")
    assert not harness.redis.exists(keys.PREFIX + "bytes")


def _futile(claim: Claim) -> Write:
    outcome = Outcome(Status.FAILED, JobError("prompt_too_long", "in words"))
    return Write(claim.job_id, claim.lease_token, len(claim.log), 1, (), outcome)


def test_a_full_line_says_when_to_come_back(redis: Redis, settings: Settings) -> None:
    harness = Harness(redis, settings.model_copy(update={"max_queued_jobs": 2}))
    harness.submit()
    harness.submit()
    with pytest.raises(QueueFullError) as caught:
        harness.submit()
    assert (caught.value.retry_after or 0) >= 1
    assert harness.store.counts()[Status.QUEUED] == 2


def test_a_redis_that_is_nearly_full_takes_no_jobs_but_lets_running_ones_end(harness: Harness) -> None:
    harness.worker(1)
    claim = harness.claim(harness.submit())
    try:
        harness.redis.config_set("maxmemory", int(harness.redis.info("memory")["used_memory"] / 0.9))
        harness.reaper.reap()
        with pytest.raises(UnavailableError, match="nearly full"):
            harness.submit()
        harness.complete(claim)
        assert harness.store.get(claim.job_id).status is Status.COMPLETED
    finally:
        harness.redis.config_set("maxmemory", 0)
    harness.reaper.reap()
    harness.submit()


def test_unknown_models_and_too_many_choices_are_refused(harness: Harness) -> None:
    with pytest.raises(InvalidRequestError, match="model: no worker ever announced 'other'"):
        harness.submit(model="other")
    harness.worker(4)
    with pytest.raises(InvalidRequestError, match="n: exceeds the 4 slots of the widest worker"):
        harness.submit(n=5)
    harness.leases.heartbeat(WorkerInfo("w2", "other", "echo", 8, 0, 0.0))
    harness.leases.deregister(WorkerInfo("w2", "other", "echo", 8, 0, 0.0))
    assert (
        harness.store.get(harness.submit(model="other", n=8)).reason
        == "no worker serves this model at present"
    )


def test_positions_and_reasons(harness: Harness) -> None:
    harness.worker(1)
    jobs = [harness.submit() for _ in range(4)]
    harness.claim(jobs[0])
    waiting = [harness.store.get(job_id) for job_id in jobs[1:]]
    assert [job.queue_position for job in waiting] == [0, 1, 2]
    assert [job.reason for job in waiting] == ["next in line", "1 job ahead", "2 jobs ahead"]
    assert harness.store.get(jobs[0]).queue_position is None


def test_listing_pages_through_an_owners_jobs(harness: Harness) -> None:
    jobs = [harness.submit("ada") for _ in range(5)]
    harness.submit("bob")
    harness.store.cancel(jobs[2])
    page = harness.store.list_jobs("ada", limit=2)
    assert ([job.id for job in page.jobs], page.has_more) == ([jobs[4], jobs[3]], True)
    page = harness.store.list_jobs("ada", limit=3, after=jobs[3])
    assert ([job.id for job in page.jobs], page.has_more) == ([jobs[2], jobs[1], jobs[0]], False)
    page = harness.store.list_jobs("ada", Status.QUEUED, limit=2, after=jobs[2])
    assert [job.id for job in page.jobs] == [jobs[1], jobs[0]]
    with pytest.raises(InvalidRequestError, match="after"):
        harness.store.list_jobs("bob", after=jobs[0])


def test_many_long_jobs_are_read_in_parts(harness: Harness) -> None:
    """One script call would hold Redis, and its answer this process, for as long as all of them take."""
    prompts = ["a" * 600_000, "b" * 600_000, "c", "d" * 2_000_000, "e", "f"]
    jobs = [harness.submit(prompt=prompt) for prompt in prompts]
    jobs.insert(4, "job_nope")
    parts = list(harness.store.read(jobs))
    assert [[job.request["prompt"][0] for job in part] for part in parts] == [
        ["a", "b"],
        ["c", "d"],
        ["e", "f"],
    ]
    assert [job.id for part in parts for job in part] == [job_id for job_id in jobs if job_id != "job_nope"]
    assert [job.queue_position for part in parts for job in part] == [*range(6)]
    assert list(harness.store.read([])) == []


def test_summaries_bring_no_long_prompts_along(harness: Harness) -> None:
    jobs = [harness.submit(prompt=letter * 500_000) for letter in "ab"] + [
        harness.submit(prompt="short"),
        "job_nope",
    ]
    found = harness.store.summaries(jobs)
    assert [(job.id, job.prompt, job.queue_position) for job in found] == [
        (jobs[0], "a" * 200, 0),
        (jobs[1], "b" * 200, 1),
        (jobs[2], "short", 2),
    ]
    answer = harness.scripts.call("summaries", long_enough=keys.LONG_ANSWER_BYTES, ids=jobs)["rows"]
    assert sum(len(text) for row in answer for text in row) < 3000
    # Records of a version that kept no start of the prompt: these are read whole, and so in parts.
    for job_id in jobs[:2]:
        harness.redis.hdel(keys.job(job_id), "prompt_start")
    assert harness.store.summaries(jobs) == found
    assert len(harness.scripts.call("summaries", long_enough=400_000, ids=jobs)["rows"]) == 1


def test_retry_is_a_new_job_with_the_same_request(harness: Harness) -> None:
    job_id = harness.submit(temperature=0.5, metadata={"k": "v"})
    with pytest.raises(ConflictError):
        harness.store.retry(job_id, "ada")
    harness.store.cancel(job_id)
    again = harness.store.retry(job_id, "ada").job_id
    assert again != job_id
    assert harness.store.get(again).request == harness.store.get(job_id).request
    with pytest.raises(JobNotFoundError):
        harness.store.retry(job_id, "bob")


def test_a_worker_knows_whether_the_client_gave_the_seed(harness: Harness) -> None:
    harness.worker(4)
    given, drawn = harness.submit(seed=5), harness.submit()
    for job_id, is_drawn in ((given, False), (drawn, True)):
        claim = harness.claim(job_id, job_id)
        assert claim.is_seed_drawn is is_drawn
        assert claim.request.seed is not None, "engines with noise of their own use it"
        assert harness.claim(job_id, job_id).is_seed_drawn is is_drawn, "the claim is repeated"
        harness.leases.flush([Write(job_id, job_id, 1, 1, (), Outcome(Status.FAILED))])
        again = harness.store.retry(job_id, "ada").job_id
        assert harness.claim(again, again).is_seed_drawn is is_drawn
        assert harness.store.get(again).request["seed"] == claim.request.seed


def test_a_drawn_seed_does_not_show_in_the_request(harness: Harness) -> None:
    """A worker of an earlier version refuses a request with a field that it does not know."""
    given, drawn = harness.submit(seed=5), harness.submit()
    assert harness.store.get(given).request.keys() == harness.store.get(drawn).request.keys()


def test_a_record_of_an_earlier_version_counts_as_one_with_the_clients_seed(harness: Harness) -> None:
    harness.worker(4)
    job_id = harness.submit()
    harness.redis.hdel(keys.job(job_id), "seed_drawn")
    assert not harness.claim(job_id).is_seed_drawn


def test_retention_removes_every_trace(harness: Harness) -> None:
    harness.worker(1)
    job_id = harness.store.submit(parse_request({"prompt": "x"}), "ada", "key").job_id
    harness.complete(harness.claim(job_id))
    harness.make_due(keys.PREFIX + "ended", job_id)
    with pytest.raises(JobNotFoundError):
        harness.store.get(job_id)
    left = {key.removeprefix(keys.PREFIX).split(":")[0] for key in harness.redis.keys("*")}
    kept = {
        "alive",
        "capacity",
        "classes",
        "counts",
        "maxmemory",
        "models_since",
        "pools",
        "reaped_at",
        "run",
        "stats",
        "versions",
        "widest",
        "workers",
    }
    assert left <= kept | {"finish", "virtual"}
    assert sum(harness.store.counts().values()) == 0


def test_an_ended_jobs_log_is_packed_and_reads_as_before(harness: Harness) -> None:
    def memory(key: str) -> int:
        return int(harness.redis.memory_usage(key, samples=0))  # All fields, not five of them.

    harness.worker(1)
    job_id = harness.submit()
    claim = harness.claim(job_id)
    tokens = [TokenEntry(0, (i,), f"word {i}\n\u2028") for i in range(300)]
    harness.leases.flush([Write(job_id, claim.lease_token, 1, 1, tokens)])
    assert not harness.reaper.pack(job_id), "it runs"
    harness.leases.flush([Write(job_id, claim.lease_token, 301, 1, (), Outcome(Status.COMPLETED))])
    job, log = harness.store.get(job_id), harness.store.read_log(job_id)
    before = memory(keys.job(job_id)) + memory(keys.log(job_id))

    harness.make_due(keys.PREFIX + "unpacked", job_id)

    assert not harness.redis.exists(keys.log(job_id))
    assert memory(keys.job(job_id)) < before / 2
    assert replace(harness.store.get(job_id), read_at=job.read_at) == job
    assert harness.store.read_log(job_id) == log
    assert harness.store.read_page(job_id, after=5, limit=10).entries == log[5:15]
    assert harness.store.header(job_id).log_length == 302


def test_a_claim_takes_no_more_slots_than_are_free(harness: Harness) -> None:
    harness.worker(4)
    job_id = harness.submit(n=2)
    assert harness.leases.claim(job_id, "t", "w1", "echo:m", free_slots=1, held=1) is Refusal.BUSY
    assert isinstance(harness.leases.claim(job_id, "t", "w1", "echo:m", free_slots=2, held=1), Claim)
