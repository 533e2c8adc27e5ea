"""What a submit stores, charges and refuses: each rule by itself, with the real Lua scripts."""

from __future__ import annotations

import pytest
from redis import Redis

from harness.writing import flush, write_of
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
from tasks.leases import Claim, Outcome, WorkerInfo, Write
from tasks.request import parse_request
from tasks.settings import Settings
from tests.transitions.harness import Harness


def test_an_idempotency_key_leads_to_the_same_job(harness: Harness) -> None:
    request = parse_request({"prompt": "x"})
    first = harness.store.submit(request, "ada", "key")
    again = harness.store.submit(request, "ada", "key")
    assert (again.job_id, first.created, again.created) == (first.job_id, True, False)
    assert harness.store.submit(request, "bob", "key").created
    with pytest.raises(IdempotencyConflictError):
        harness.store.submit(parse_request({"prompt": "y"}), "ada", "key")


def test_what_made_a_job_stays_with_it_and_is_part_of_its_body(harness: Harness) -> None:
    request, origin = parse_request({"prompt": "x"}), {"api": "chat", "user": "é"}
    [made] = harness.store.submit_all([request], "ada", "key", origin=origin)
    assert made.job is not None
    assert made.job.origin == origin
    assert harness.store.get(made.job_id).origin == origin
    assert harness.store.get(harness.submit()).origin is None
    with pytest.raises(IdempotencyConflictError):
        harness.store.submit_all([request], "ada", "key", origin={"api": "other"})
    harness.store.cancel(made.job_id)
    again = harness.store.retry(made.job_id, "ada")
    assert harness.store.get(again.job_id).origin == origin


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
    assert harness.store.submit_all(requests, "bob", "another"), "a refused call must not use up its key"


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
    others = [harness.submit("bob", max_tokens=64) for _ in range(4)]
    assert harness.offered == [in_service]
    assert harness.line() == [others[0], greedy, others[1], others[2], later, others[3]]


def test_an_owner_gets_back_what_a_job_did_not_use(harness: Harness) -> None:
    harness.worker(1, length=1000)
    claim = harness.claim(harness.submit("ada", max_tokens=1000))
    others = [harness.submit("bob", max_tokens=100) for _ in range(3)]
    outcome = Outcome(Status.COMPLETED, completion_tokens=50)
    flush(harness.leases, [write_of(claim.job_id, claim.lease_token, 1, 1, (), outcome)])
    assert harness.offered[-1] == others[0]
    ada = harness.submit("ada")
    assert harness.line() == [ada, *others[1:]]


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
        flush(harness.leases, [_futile(claim)])
        harness.make_due(keys.PREFIX + "unpacked", big)
        harness.submit(prompt="x" * 900_000)
    finally:
        harness.redis.config_set("maxmemory", 0)
    harness.reap()


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


def test_settings_that_are_not_the_workers_are_believed_until_a_worker_announces_itself(
    harness: Harness,
) -> None:
    """A program that submits through Redis may lack MODEL_ID. Its jobs must not wait forever."""
    request = parse_request({"prompt": "x"})
    harness.store.submit(request, "ada", trusts_settings=False)
    for number in range(6):
        harness.leases.heartbeat(WorkerInfo("w", f"other{number}", "echo", 8, 0, 0.0))
    known = "'other0', 'other1', 'other2', 'other3', 'other4' and others"
    with pytest.raises(
        InvalidRequestError, match=f"model: no worker ever announced 'm'; workers announced {known}"
    ):
        harness.store.submit(request, "ada", trusts_settings=False)
    harness.store.submit(request, "ada")
    harness.worker(4)
    harness.store.submit(request, "ada", trusts_settings=False)


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


def test_a_drawn_seed_does_not_show_in_the_request(harness: Harness) -> None:
    """A worker of an earlier version refuses a request with a field that it does not know."""
    given, drawn = harness.submit(seed=5), harness.submit()
    assert harness.store.get(given).request.keys() == harness.store.get(drawn).request.keys()


def _futile(claim: Claim) -> Write:
    outcome = Outcome(Status.FAILED, JobError("prompt_too_long", "in words"))
    return write_of(claim.job_id, claim.lease_token, len(claim.log), 1, (), outcome)
