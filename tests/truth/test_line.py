"""The order of the line, offers, deadlines and retention: each rule by itself, on the real Lua."""

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
from tasks.leases import Claim, Finish, Refusal, Word, WorkerInfo, Write
from tasks.log import TokenEntry
from tasks.request import parse_request
from tasks.settings import Settings
from tests.truth.house import House


@pytest.fixture
def house(redis: Redis, settings: Settings) -> House:
    return House(redis, settings)


def line(house: House) -> list[str]:
    """Jobs of all widths, in their order."""
    tags: dict[str, float] = {}
    for width in range(1, 9):
        tags |= house.redis.zrange(keys.line("any:m", width), 0, -1, withscores=True)
    return sorted(tags, key=lambda job_id: (tags[job_id], job_id))


def test_a_single_job_passes_another_owners_backlog(house: House) -> None:
    backlog = [house.submit("ada") for _ in range(5)]
    single = house.submit("bob")
    assert line(house) == [backlog[0], single, *backlog[1:]]


def test_shares_are_by_tokens_not_by_jobs(house: House) -> None:
    wide = [house.submit("ada", max_tokens=100, n=2) for _ in range(2)]
    narrow = [house.submit("bob", max_tokens=50) for _ in range(5)]
    assert line(house) == [wide[0], *narrow[:4], wide[1], narrow[4]]


def test_who_comes_back_after_a_pause_starts_where_the_others_are(house: House) -> None:
    """No credit for having been away: a newcomer does not get the whole past."""
    house.worker(1)
    for _ in range(3):
        house.finish(house.claim(house.submit("ada")))
    running = house.submit("ada")
    ada = house.submit("ada")
    bob = [house.submit("bob") for _ in range(3)]
    assert house.rung[-1] == running
    assert line(house) == [bob[0], ada, *bob[1:]]


def test_a_cancelled_job_gives_its_turn_back(house: House) -> None:
    cancelled = [house.submit("ada") for _ in range(10)]
    other = [house.submit("bob") for _ in range(2)]
    for job_id in cancelled:
        house.store.cancel(job_id)
    late = house.submit("ada")
    assert line(house) == [other[0], late, other[1]]


def test_priority_goes_first_but_not_for_ever(house: House) -> None:
    low, normal = house.submit(priority="low"), house.submit()
    high = [house.submit(priority="high", max_tokens=16_384) for _ in range(3)]
    order = line(house)
    assert order.index(normal) < order.index(high[2]), "a bounded head start"
    assert order.index(high[0]) < order.index(normal) < order.index(low)


def test_a_prioritized_job_does_not_push_newcomers_behind_its_owners_backlog(house: House) -> None:
    """Its own tag lies far ahead; time must not follow it there."""
    house.worker(1)
    running = house.submit("ada")
    backlog = [house.submit("ada") for _ in range(10)]
    high = house.submit("ada", priority="high")
    house.finish(house.claim(running))
    assert house.rung == [running, high]
    newcomer = house.submit("bob")
    assert line(house) == [newcomer, *backlog]


def test_no_more_is_offered_than_there_are_free_slots(house: House) -> None:
    jobs = [house.submit(n=2) for _ in range(4)]
    assert house.rung == []
    house.worker(5)
    assert house.rung == jobs[:2]
    house.finish(house.claim(jobs[0]))
    assert house.rung == jobs[:3]


def test_nobody_overtakes_a_wide_job_that_waits_for_slots(house: House) -> None:
    house.worker(4)
    narrow = house.submit(n=2)
    wide, late = house.submit(n=4), house.submit(n=1)
    assert house.rung == [narrow]
    assert house.leases.claim(narrow, "t", "w1", "echo:m", free_slots=1, held=0) is Refusal.BUSY
    house.finish(house.claim(narrow))
    assert house.rung == [narrow, wide]
    house.finish(house.claim(wide))
    assert house.rung == [narrow, wide, late]


def test_what_no_worker_can_hold_blocks_nobody_and_says_why(house: House) -> None:
    """The wide worker left for good, behind the job's back."""
    house.worker(8)
    running = house.claim(house.submit(n=8))
    wide = house.submit(n=8)
    house.leases.release([(running.job_id, running.token)], "drained")
    house.worker(4)
    narrow = [house.submit(n=n) for n in (1, 2, 4, 1)]
    assert house.rung[-2:] == narrow[:2]
    for job_id in (wide, running.job_id):
        job = house.store.get(job_id)
        assert job.reason == "no worker has the 8 slots that it takes at present; the widest has 4"
        assert job.eta_seconds is None
    assert house.store.get(narrow[2]).queue_position == 0


def test_a_wide_worker_takes_what_waited_for_one(house: House) -> None:
    wide = house.submit(n=8)
    house.worker(4)
    assert house.rung == []
    house.worker(8, "w2")
    assert house.offers == [("w2", wide)]


def test_what_lives_now_decides_how_wide_a_job_may_be(house: House) -> None:
    house.submit(n=8)
    house.worker(8)
    house.submit(n=8)
    house.worker(2)
    with pytest.raises(InvalidRequestError, match="n: exceeds the 2 slots of the widest worker"):
        house.submit(n=3)
    house.worker(4, "w2")
    house.submit(n=3)
    house.leases.goodbye(WorkerInfo("w2", "m", "echo", 0, 0, 0.0))
    with pytest.raises(InvalidRequestError, match="n: exceeds the 2 slots"):
        house.submit(n=3)
    house.leases.goodbye(WorkerInfo("w1", "m", "echo", 0, 0, 0.0))
    with pytest.raises(InvalidRequestError, match="n: exceeds the 2 slots"):
        house.submit(n=3)
    assert house.store.get(house.submit(n=2)).reason == "no worker serves this model at present"


def test_free_slots_of_several_workers_do_not_add_up(house: House) -> None:
    for worker in ("w1", "w2"):
        house.worker(2, worker)
    narrow = [house.submit() for _ in range(2)]
    assert sorted(worker for worker, _ in house.offers) == ["w1", "w2"]
    wide = house.submit(n=2)
    assert house.rung == narrow, "each has one slot free"
    worker, job_id = house.offers[0]
    house.finish(house.claim(job_id, worker=worker))
    assert house.offers[2:] == [(worker, wide)]


def test_a_wide_job_waits_for_one_worker_and_the_others_take_what_comes_next(house: House) -> None:
    house.worker(4)
    first = [house.claim(house.submit(), token=f"t{i}") for i in range(2)]
    wide = house.submit(n=4)
    house.worker(2, "w2")
    late = [house.submit() for _ in range(4)]
    assert house.offers[2:] == [("w2", late[0]), ("w2", late[1])]
    for claim in first:
        house.finish(claim)
    assert house.offers[4:] == [("w1", wide)]
    assert house.store.get(late[2]).queue_position == 0


def test_an_offer_that_nobody_claims_is_rung_again(house: House) -> None:
    house.worker(1)
    job_id = house.submit()
    house.make_due(keys.offered("echo:m"), job_id)
    assert house.rung == [job_id, job_id]
    house.claim(job_id)
    house.reaper.reap()
    assert house.rung == [job_id, job_id]


def test_a_job_whose_worker_died_goes_to_the_front_and_stays_in_progress(house: House) -> None:
    house.worker(1)
    job_id = house.submit()
    claim = house.claim(job_id)
    house.leases.flush([Write(job_id, claim.token, 1, 3, [TokenEntry(0, (7,), " once")])])
    others = [house.submit() for _ in range(3)]
    house.worker(0)
    house.make_due(keys.leases("echo:m"), job_id)
    assert line(house) == [job_id, *others]
    job = house.store.get(job_id)
    assert (job.status, job.output[0].text) == (Status.IN_PROGRESS, " once")
    assert job.attempts[0].reason == "lease expired"
    house.worker(1)
    assert house.claim(job_id, "t2").entries[1] == TokenEntry(0, (7,), " once")


def test_a_worker_that_lost_its_lease_can_do_nothing_any_more(house: House) -> None:
    """It was paused, another one has the job now, and it wakes up."""
    house.worker(1)
    stale = house.claim(house.submit(), "stale")
    house.make_due(keys.leases("echo:m"), stale.job_id)
    current = house.claim(stale.job_id, "current")
    entry = TokenEntry(0, (1,), "stale")
    writes = [
        Write(stale.job_id, "stale", 1, 1, [entry]),
        Write(stale.job_id, "stale", 2, 1, [entry]),
        Write(stale.job_id, "stale", 2, 1, (), Finish(Status.COMPLETED)),
    ]
    assert {written.word for written in house.leases.flush(writes)} == {Word.FENCED}
    assert house.leases.release([(stale.job_id, "stale")], "drained") == 0
    assert house.store.read_log(stale.job_id) == current.entries
    house.finish(current)
    assert house.store.get(stale.job_id).status is Status.COMPLETED


def test_the_fourth_death_without_a_token_is_poison(house: House) -> None:
    house.worker(1)
    job_id = house.submit()
    for death in range(1, 5):
        assert house.store.get(job_id).status is not Status.FAILED, death
        house.claim(job_id, f"t{death}")
        house.make_due(keys.leases("echo:m"), job_id)
    job = house.store.get(job_id)
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "poison")
    assert [attempt.reason for attempt in job.attempts] == ["lease expired"] * 4


def test_a_job_that_may_have_killed_two_workers_runs_alone(house: House) -> None:
    house.worker(4)
    job_id = house.submit()
    for death in range(2):
        assert not house.claim(job_id, f"t{death}").is_alone
        house.make_due(keys.leases("echo:m"), job_id)
    assert house.leases.claim(job_id, "t2", "w1", "echo:m", free_slots=4, held=1) is Refusal.BUSY
    assert house.claim(job_id, "t2").is_alone


def test_a_suspect_waits_for_an_idle_worker_and_has_it_to_itself(house: House) -> None:
    """It may not start beside others, so what would start there goes elsewhere."""
    house.worker(4)
    suspect = house.submit()
    for death in range(2):
        house.claim(suspect, f"t{death}")
        if death:
            house.worker(0)
        house.make_due(keys.leases("echo:m"), suspect)
    house.worker(4)
    assert house.offers[-1] == ("w1", suspect)
    house.worker(0)
    running = house.submit(priority="high")
    house.worker(1, "w2")
    companion = house.claim(running, worker="w2")
    house.worker(3, "w2")
    assert house.rung[-1] == running, "w2 is not idle"
    late = [house.submit() for _ in range(2)]
    assert house.rung[-1] == running, "nobody overtakes it there"
    house.finish(companion)
    assert house.offers[-1] == ("w2", suspect)
    house.worker(4)
    assert house.offers[-2:] == [("w1", late[0]), ("w1", late[1])], "not beside it"
    assert house.slots_taken() == {"w1": 2, "w2": 3}
    house.finish(house.claim(suspect, "t2", "w2"))
    assert house.slots_taken() == {"w1": 2}


def test_a_token_clears_the_count_of_deaths(house: House) -> None:
    house.worker(1)
    job_id = house.submit()
    for death in range(6):
        claim = house.claim(job_id, f"t{death}")
        if death == 2:
            house.leases.flush(
                [Write(job_id, claim.token, len(claim.entries), 1, [TokenEntry(0, (1,), "a")])]
            )
        house.make_due(keys.leases("echo:m"), job_id)
    assert house.store.get(job_id).status is Status.IN_PROGRESS


def test_a_drained_job_does_not_count_as_a_death(house: House) -> None:
    house.worker(1)
    job_id = house.submit()
    for attempt in range(6):
        house.claim(job_id, f"t{attempt}")
        assert house.leases.release([(job_id, f"t{attempt}")], "drained") == 1
    assert house.store.get(job_id).status is Status.IN_PROGRESS


def test_a_running_job_is_cancelled_by_its_worker_not_under_it(house: House) -> None:
    """Which still has text to write, and ends it with its next flush."""
    house.worker(1)
    claim = house.claim(house.submit())
    house.store.cancel(claim.job_id)
    assert house.store.get(claim.job_id).status is Status.IN_PROGRESS
    [written] = house.leases.flush([Write(claim.job_id, "t", 1, 1, (TokenEntry(0, (5,), "w"),))])
    assert written.word is Word.CANCEL
    house.leases.flush([Write(claim.job_id, "t", 2, 1, (), Finish(Status.CANCELLED))])
    job = house.store.get(claim.job_id)
    assert (job.status, job.output[0].text) == (Status.CANCELLED, "w")


def test_a_cancelled_job_that_its_worker_gives_back_ends(house: House) -> None:
    """The worker drained before it heard of the cancel, and no other one may ever come."""
    house.worker(1)
    claim = house.claim(house.submit())
    house.store.cancel(claim.job_id)
    assert house.leases.release([(claim.job_id, claim.token)], "drained") == 1
    assert house.store.get(claim.job_id).status is Status.CANCELLED


@pytest.mark.parametrize("gap", [-100.0, 100.0])
def test_no_lease_is_believed_to_have_run_out_across_a_gap_in_time(house: House, gap: float) -> None:
    """Redis was paused, restarted or its clock set: workers get a fresh term to report."""
    house.worker(1)
    claim = house.claim(house.submit())
    house.redis.zadd(keys.leases("echo:m"), {claim.job_id: 0})
    house.redis.set(keys.PREFIX + "reaped_at", str(house.store._now() - gap))
    house.reaper.reap()
    assert house.redis.zscore(keys.leases("echo:m"), claim.job_id) > house.store._now()


def test_expires_in_ends_a_job_that_waits(house: House) -> None:
    job_id = house.submit(expires_in=60)
    house.make_due(keys.PREFIX + "deadlines", job_id)
    job = house.store.get(job_id)
    assert (job.status, job.error and job.error.code) == (Status.EXPIRED, "expired")


def test_expires_in_counts_before_the_first_start_only(house: House) -> None:
    house.worker(1)
    job_id = house.submit(expires_in=60)
    house.claim(job_id)
    assert house.redis.zscore(keys.PREFIX + "deadlines", job_id) is None
    house.make_due(keys.leases("echo:m"), job_id)
    assert house.redis.zscore(keys.PREFIX + "deadlines", job_id) is None


def test_timeout_ends_a_job_between_two_attempts(house: House) -> None:
    house.worker(1)
    job_id = house.submit(timeout=60)
    house.claim(job_id)
    house.make_due(keys.leases("echo:m"), job_id)
    house.make_due(keys.PREFIX + "deadlines", job_id)
    job = house.store.get(job_id)
    assert (job.status, job.error and job.error.code) == (Status.FAILED, "timeout")


def test_an_idempotency_key_leads_to_the_same_job(house: House) -> None:
    request = parse_request({"prompt": "x"})
    first = house.store.submit(request, "ada", "key")
    again = house.store.submit(request, "ada", "key")
    assert (again.job_id, first.created, again.created) == (first.job_id, True, False)
    assert house.store.submit(request, "bob", "key").created
    with pytest.raises(IdempotencyConflictError):
        house.store.submit(parse_request({"prompt": "y"}), "ada", "key")


def test_several_jobs_are_accepted_together_or_not_at_all(redis: Redis, settings: Settings) -> None:
    house = House(redis, settings.model_copy(update={"max_queued_jobs": 3}))
    requests = [parse_request({"prompt": prompt}) for prompt in "ab"]
    first = house.store.submit_all(requests, "ada", "key")
    with pytest.raises(QueueFullError):
        house.store.submit_all(requests, "ada", "another")
    assert house.store.counts()[Status.QUEUED] == 2
    house.worker(2)
    assert house.rung == [one.job_id for one in first]
    house.submit()
    assert house.store.submit_all(requests, "bob", "another"), "a refused call leaves its key free"


def test_a_key_leads_to_all_jobs_of_its_call_while_one_of_them_is_there(house: House) -> None:
    house.worker(2)
    requests = [parse_request({"prompt": prompt}) for prompt in "ab"]
    first, second = (one.job_id for one in house.store.submit_all(requests, "ada", "key"))
    assert [one.job_id for one in house.store.submit_all(requests, "ada", "key")] == [first, second]
    with pytest.raises(IdempotencyConflictError):
        house.store.submit_all(requests[:1], "ada", "key")
    house.finish(house.claim(first))
    house.store.delete(first, "ada")
    assert [one.job_id for one in house.store.submit_all(requests, "ada", "key")] == [first, second]
    house.finish(house.claim(second))
    house.store.delete(second, "ada")
    assert all(one.created for one in house.store.submit_all(requests, "ada", "key"))


def test_a_job_is_not_charged_for_more_than_the_models_length(house: House) -> None:
    house.worker(1, length=100)
    in_service = house.submit("ada")
    greedy = house.submit("ada", max_tokens=2**31 - 1)
    later = house.submit("ada")
    others = [house.submit("bob", max_tokens=64) for _ in range(3)]
    assert house.rung == [in_service]
    assert line(house) == [others[0], greedy, others[1], others[2], later]


def test_what_a_job_did_not_use_is_given_back_to_its_owner(house: House) -> None:
    house.worker(1, length=1000)
    claim = house.claim(house.submit("ada", max_tokens=1000))
    others = [house.submit("bob", max_tokens=100) for _ in range(3)]
    finish = Finish(Status.COMPLETED, completion_tokens=50)
    house.leases.flush([Write(claim.job_id, claim.token, 1, 1, (), finish)])
    assert house.rung[-1] == others[0]
    ada = house.submit("ada")
    assert line(house) == [ada, *others[1:]]


def test_an_owners_jobs_take_no_more_than_their_share_of_the_memory(redis: Redis, settings: Settings) -> None:
    config = {"api_keys": {"a": "ada", "b": "bob"}, "owner_memory_share": 0.01}
    house = House(redis, settings.model_copy(update=config))
    house.worker(8)
    try:
        house.redis.config_set("maxmemory", 100 * 1024 * 1024)
        house.reap()
        big = house.submit(prompt="x" * 900_000)
        with pytest.raises(OverShareError):
            house.submit(prompt="x" * 900_000)
        house.submit("bob", prompt="x" * 900_000)
        claim = house.claim(big)
        house.leases.flush([_futile(claim)])
        house.make_due(keys.PREFIX + "unpacked", big)
        house.submit(prompt="x" * 900_000)
    finally:
        house.redis.config_set("maxmemory", 0)
    house.reap()


def test_a_request_that_can_never_run_is_kept_cut_short(house: House) -> None:
    house.worker(8)
    messages = [{"role": "user", "content": "é" * 100_000}] * 10
    jobs = [house.submit(prompt="x" * 900_000), house.submit(prompt=None, messages=messages)]
    for job_id in jobs:
        house.leases.flush([_futile(house.claim(job_id, token=job_id))])
        assert not house.store.get(job_id).is_request_truncated
        house.make_due(keys.PREFIX + "unpacked", job_id)
        assert house.redis.memory_usage(keys.job(job_id), samples=0) < 8_000
        with pytest.raises(ConflictError, match="prompt_too_long, so its whole request was not kept"):
            house.store.retry(job_id, "ada")
    of_prompt, of_messages = (house.store.get(job_id) for job_id in jobs)
    assert of_prompt.request["prompt"] == "x" * 200
    assert [len(message["content"]) for message in of_messages.request["messages"]] == [200] * 4
    assert of_prompt.is_request_truncated
    for job_id in jobs:
        house.store.delete(job_id, "ada")
    assert not house.redis.exists(keys.PREFIX + "bytes")


def _futile(claim: Claim) -> Write:
    finish = Finish(Status.FAILED, JobError("prompt_too_long", "in words"))
    return Write(claim.job_id, claim.token, len(claim.log), 1, (), finish)


def test_a_full_line_says_when_to_come_back(redis: Redis, settings: Settings) -> None:
    house = House(redis, settings.model_copy(update={"max_queued_jobs": 2}))
    house.submit()
    house.submit()
    with pytest.raises(QueueFullError) as caught:
        house.submit()
    assert (caught.value.retry_after or 0) >= 1
    assert house.store.counts()[Status.QUEUED] == 2


def test_a_redis_that_is_nearly_full_takes_no_jobs_but_lets_running_ones_end(house: House) -> None:
    house.worker(1)
    claim = house.claim(house.submit())
    try:
        house.redis.config_set("maxmemory", int(house.redis.info("memory")["used_memory"] / 0.9))
        house.reaper.reap()
        with pytest.raises(UnavailableError, match="nearly full"):
            house.submit()
        house.finish(claim)
        assert house.store.get(claim.job_id).status is Status.COMPLETED
    finally:
        house.redis.config_set("maxmemory", 0)
    house.reaper.reap()
    house.submit()


def test_unknown_models_and_too_many_choices_are_refused(house: House) -> None:
    with pytest.raises(InvalidRequestError, match="model: no worker ever announced 'other'"):
        house.submit(model="other")
    house.worker(4)
    with pytest.raises(InvalidRequestError, match="n: exceeds the 4 slots of the widest worker"):
        house.submit(n=5)
    house.leases.heartbeat(WorkerInfo("w2", "other", "echo", 8, 0, 0.0))
    house.leases.goodbye(WorkerInfo("w2", "other", "echo", 8, 0, 0.0))
    assert (
        house.store.get(house.submit(model="other", n=8)).reason == "no worker serves this model at present"
    )


def test_positions_and_reasons(house: House) -> None:
    house.worker(1)
    jobs = [house.submit() for _ in range(4)]
    house.claim(jobs[0])
    waiting = [house.store.get(job_id) for job_id in jobs[1:]]
    assert [job.queue_position for job in waiting] == [0, 1, 2]
    assert [job.reason for job in waiting] == ["next in line", "1 job ahead", "2 jobs ahead"]
    assert house.store.get(jobs[0]).queue_position is None


def test_listing_pages_through_an_owners_jobs(house: House) -> None:
    jobs = [house.submit("ada") for _ in range(5)]
    house.submit("bob")
    house.store.cancel(jobs[2])
    page = house.store.list_jobs("ada", limit=2)
    assert ([job.id for job in page.jobs], page.has_more) == ([jobs[4], jobs[3]], True)
    page = house.store.list_jobs("ada", limit=3, after=jobs[3])
    assert ([job.id for job in page.jobs], page.has_more) == ([jobs[2], jobs[1], jobs[0]], False)
    page = house.store.list_jobs("ada", Status.QUEUED, limit=2, after=jobs[2])
    assert [job.id for job in page.jobs] == [jobs[1], jobs[0]]
    with pytest.raises(InvalidRequestError, match="after"):
        house.store.list_jobs("bob", after=jobs[0])


def test_many_long_jobs_are_read_in_parts(house: House) -> None:
    """One script call would hold Redis, and its answer this process, for as long as all of them take."""
    prompts = ["a" * 600_000, "b" * 600_000, "c", "d" * 2_000_000, "e", "f"]
    jobs = [house.submit(prompt=prompt) for prompt in prompts]
    jobs.insert(4, "job_nope")
    parts = list(house.store.read(jobs))
    assert [[job.request["prompt"][0] for job in part] for part in parts] == [
        ["a", "b"],
        ["c", "d"],
        ["e", "f"],
    ]
    assert [job.id for part in parts for job in part] == [job_id for job_id in jobs if job_id != "job_nope"]
    assert [job.queue_position for part in parts for job in part] == [*range(6)]
    assert list(house.store.read([])) == []


def test_summaries_bring_no_long_prompts_along(house: House) -> None:
    jobs = [house.submit(prompt=letter * 500_000) for letter in "ab"] + [
        house.submit(prompt="short"),
        "job_nope",
    ]
    found = house.store.summaries(jobs)
    assert [(job.id, job.prompt, job.queue_position) for job in found] == [
        (jobs[0], "a" * 200, 0),
        (jobs[1], "b" * 200, 1),
        (jobs[2], "short", 2),
    ]
    answer = house.store._scripts.call("summaries", keys.LONG_ANSWER_BYTES, *jobs)
    assert sum(len(text) for row in answer for text in row) < 3000
    # Records of a version that kept no start of the prompt: these are read whole, and so in parts.
    for job_id in jobs[:2]:
        house.redis.hdel(keys.job(job_id), "prompt_start")
    assert house.store.summaries(jobs) == found
    assert len(house.store._scripts.call("summaries", 400_000, *jobs)) == 1


def test_retry_is_a_new_job_with_the_same_request(house: House) -> None:
    job_id = house.submit(temperature=0.5, metadata={"k": "v"})
    with pytest.raises(ConflictError):
        house.store.retry(job_id, "ada")
    house.store.cancel(job_id)
    again = house.store.retry(job_id, "ada").job_id
    assert again != job_id
    assert house.store.get(again).request == house.store.get(job_id).request
    with pytest.raises(JobNotFoundError):
        house.store.retry(job_id, "bob")


def test_a_worker_knows_whether_the_client_gave_the_seed(house: House) -> None:
    house.worker(4)
    given, drawn = house.submit(seed=5), house.submit()
    for job_id, is_drawn in ((given, False), (drawn, True)):
        claim = house.claim(job_id, job_id)
        assert claim.is_seed_drawn is is_drawn
        assert claim.request.seed is not None, "engines with noise of their own use it"
        assert house.claim(job_id, job_id).is_seed_drawn is is_drawn, "the claim is repeated"
        house.leases.flush([Write(job_id, job_id, 1, 1, (), Finish(Status.FAILED))])
        again = house.store.retry(job_id, "ada").job_id
        assert house.claim(again, again).is_seed_drawn is is_drawn
        assert house.store.get(again).request["seed"] == claim.request.seed


def test_a_drawn_seed_does_not_show_in_the_request(house: House) -> None:
    """A worker of an earlier version refuses a request with a field that it does not know."""
    given, drawn = house.submit(seed=5), house.submit()
    assert house.store.get(given).request.keys() == house.store.get(drawn).request.keys()


def test_a_record_of_an_earlier_version_counts_as_one_with_the_clients_seed(house: House) -> None:
    house.worker(4)
    job_id = house.submit()
    house.redis.hdel(keys.job(job_id), "seed_drawn")
    assert not house.claim(job_id).is_seed_drawn


def test_retention_removes_every_trace(house: House) -> None:
    house.worker(1)
    job_id = house.store.submit(parse_request({"prompt": "x"}), "ada", "key").job_id
    house.finish(house.claim(job_id))
    house.make_due(keys.PREFIX + "ended", job_id)
    with pytest.raises(JobNotFoundError):
        house.store.get(job_id)
    left = {key.removeprefix(keys.PREFIX).split(":")[0] for key in house.redis.keys("*")}
    of_the_house = {
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
    assert left <= of_the_house | {"finish", "virtual"}
    assert sum(house.store.counts().values()) == 0


def test_an_ended_jobs_log_is_packed_and_reads_as_before(house: House) -> None:
    def memory(key: str) -> int:
        return int(house.redis.memory_usage(key, samples=0))  # All fields, not five of them.

    house.worker(1)
    job_id = house.submit()
    claim = house.claim(job_id)
    tokens = [TokenEntry(0, (i,), f"word {i}\n\u2028") for i in range(300)]
    house.leases.flush([Write(job_id, claim.token, 1, 1, tokens)])
    assert not house.reaper.pack(job_id), "it runs"
    house.leases.flush([Write(job_id, claim.token, 301, 1, (), Finish(Status.COMPLETED))])
    job, log = house.store.get(job_id), house.store.read_log(job_id)
    before = memory(keys.job(job_id)) + memory(keys.log(job_id))

    house.make_due(keys.PREFIX + "unpacked", job_id)

    assert not house.redis.exists(keys.log(job_id))
    assert memory(keys.job(job_id)) < before / 2
    assert replace(house.store.get(job_id), read_at=job.read_at) == job
    assert house.store.read_log(job_id) == log
    assert house.store.read_page(job_id, after=5, limit=10).entries == log[5:15]
    assert house.store.glance(job_id).log_length == 302


def test_a_claim_takes_no_more_slots_than_are_free(house: House) -> None:
    house.worker(4)
    job_id = house.submit(n=2)
    assert house.leases.claim(job_id, "t", "w1", "echo:m", free_slots=1, held=1) is Refusal.BUSY
    assert isinstance(house.leases.claim(job_id, "t", "w1", "echo:m", free_slots=2, held=1), Claim)
