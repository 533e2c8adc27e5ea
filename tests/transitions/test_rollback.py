"""Redis restarts without its last second: a worker that has more of a job than Redis continues it."""

from __future__ import annotations

import pytest
from redis import Redis

from harness.writing import flush, write_of
from tasks import keys
from tasks.job import Status
from tasks.leases import Claim, Outcome, Refusal, WriteStatus
from tasks.log import StatusEntry, TokenEntry
from tasks.settings import Settings
from tests.transitions.harness import Harness

TOKENS = [TokenEntry(0, (i,), f"t{i}") for i in range(4)]


class Memory:
    """A copy of everything that is in Redis at one moment."""

    def __init__(self, harness: Harness) -> None:
        self._url = harness.settings.required_redis_url
        with Redis.from_url(self._url) as raw:  # A connection of its own, because dumps are bytes.
            self._dumps = {key: raw.dump(key) for key in raw.scan_iter()}

    def come_back(self) -> None:
        """Restores the copy. Redis stays the same process, so claims need not wait for it to settle."""
        with Redis.from_url(self._url) as raw:
            raw.flushall()
            for key, dump in self._dumps.items():
                raw.restore(key, 0, dump)


@pytest.fixture
def harness(redis: Redis, settings: Settings) -> Harness:
    harness = Harness(redis, settings)
    harness.worker(4)
    return harness


def written(harness: Harness, claim: Claim, base: int, tokens: list[TokenEntry]) -> WriteStatus | None:
    [status] = flush(harness.leases, [write_of(claim.job_id, claim.lease_token, base, 1, tokens)])
    return status


def log(harness: Harness, job_id: str) -> list[str]:
    return list(harness.redis.lrange(keys.log(job_id), 0, -1))


def places(harness: Harness, job_id: str) -> list[str]:
    indexes = {"line": keys.line("any:m"), "offered": keys.offered("echo:m"), "leases": keys.leases("echo:m")}
    return [place for place, index in indexes.items() if harness.redis.zscore(index, job_id) is not None]


@pytest.mark.parametrize("place", ["line", "offered"])
def test_a_claim_that_redis_forgot_is_taken_back(harness: Harness, place: str) -> None:
    if place == "line":
        harness.worker(0)
    job_id = harness.submit()
    memory = Memory(harness)
    harness.worker(4)
    claim = harness.claim(job_id)
    written(harness, claim, 1, TOKENS[:2])
    memory.come_back()
    assert places(harness, job_id) == [place]
    assert written(harness, claim, 3, TOKENS[2:]) is WriteStatus.FENCED
    for _ in range(2):  # Twice, as after a lost answer.
        assert harness.leases.take_back(claim, "w1", "echo:m")
        assert places(harness, job_id) == ["leases"]
    assert written(harness, claim, 1, TOKENS) is None
    harness.complete(claim, base=5)
    job = harness.store.get(job_id, "ada")
    assert (job.status, [attempt.number for attempt in job.attempts]) == (Status.COMPLETED, [1])
    assert harness.slots_taken() == {}


def test_taking_back_a_claim_restores_the_entries_of_earlier_attempts(harness: Harness) -> None:
    """Another worker claimed the job after a drain. Redis forgot the first attempt's end and the claim."""
    job_id = harness.submit()
    first = harness.claim(job_id, "first")
    written(harness, first, 1, TOKENS[:1])
    memory = Memory(harness)
    written(harness, first, 2, TOKENS[1:3])
    harness.leases.release([(job_id, "first")], "drained")
    second = harness.claim(job_id, "second")
    assert second.entries == [StatusEntry(1), *TOKENS[:3], StatusEntry(2)]
    memory.come_back()
    assert written(harness, second, 5, TOKENS[3:]) is WriteStatus.FENCED
    for _ in range(2):
        assert harness.leases.take_back(second, "w1", "echo:m")
    assert log(harness, job_id) == [entry.encode() for entry in second.entries]
    assert written(harness, first, 4, TOKENS[3:]) is WriteStatus.FENCED
    assert written(harness, second, 5, TOKENS[3:]) is None
    harness.complete(second, base=6)
    job = harness.store.get(job_id, "ada")
    assert [(attempt.number, attempt.reason) for attempt in job.attempts] == [
        (1, "forgotten by Redis"),
        (2, None),
    ]
    assert harness.slots_taken() == {}


def test_long_output_comes_back_whole(harness: Harness) -> None:
    """The log has more entries than a Lua call can have arguments."""
    job_id = harness.submit()
    memory = Memory(harness)
    first = harness.claim(job_id, "first")
    written(harness, first, 1, [TokenEntry(0, (i,), str(i)) for i in range(2500)])
    harness.leases.release([(job_id, "first")], "drained")
    second = harness.claim(job_id, "second")
    memory.come_back()
    assert harness.leases.take_back(second, "w1", "echo:m")
    assert log(harness, job_id) == [entry.encode() for entry in second.entries]


def test_a_job_that_another_worker_has_claimed_is_not_taken_back(harness: Harness) -> None:
    job_id = harness.submit()
    memory = Memory(harness)
    forgotten = harness.claim(job_id, "forgotten")
    memory.come_back()
    harness.claim(job_id, "later")
    assert not harness.leases.take_back(forgotten, "w1", "echo:m")
    assert harness.redis.hget(keys.job(job_id), "token") == "later"


def test_a_job_with_another_text_is_not_taken_back(harness: Harness) -> None:
    job_id = harness.submit()
    first = harness.claim(job_id, "first")
    memory = Memory(harness)
    written(harness, first, 1, TOKENS)
    harness.leases.release([(job_id, "first")], "drained")
    second = harness.claim(job_id, "second")
    memory.come_back()
    written(harness, first, 1, [TokenEntry(0, (1, 2), "t1t2")])
    assert not harness.leases.take_back(second, "w1", "echo:m")
    assert harness.redis.hget(keys.job(job_id), "token") == "first"


def test_an_ended_job_is_not_taken_back(harness: Harness) -> None:
    job_id = harness.submit()
    memory = Memory(harness)
    claim = harness.claim(job_id)
    memory.come_back()
    harness.store.cancel(job_id)
    assert not harness.leases.take_back(claim, "w1", "echo:m")
    assert harness.store.get(job_id, "ada").status is Status.CANCELLED


def test_nobody_claims_until_a_restarted_redis_has_settled(harness: Harness) -> None:
    """A job that looks unclaimed may be running."""
    held, waiting = harness.submit(), harness.submit()
    memory = Memory(harness)
    claim = harness.claim(held)
    memory.come_back()
    harness.redis.hset(keys.PREFIX + "run", "id", "of the process before")
    harness.reaper.reap()
    for _ in range(2):
        assert harness.leases.claim(held, "other", "w1", "echo:m", 8, 0) is Refusal.SETTLING
        assert harness.leases.claim(waiting, "other", "w1", "echo:m", 8, 0) is Refusal.SETTLING
    assert harness.leases.take_back(claim, "w1", "echo:m")
    harness.redis.hset(keys.PREFIX + "run", "settled_at", "0")
    assert harness.leases.claim(held, "other", "w1", "echo:m", 8, 0) is Refusal.GONE
    assert harness.claim(waiting, "other").lease_token == "other"


def test_an_empty_redis_need_not_settle(harness: Harness) -> None:
    assert harness.redis.hget(keys.PREFIX + "run", "id") is None
    claim = harness.claim(harness.submit())
    flush(harness.leases, [write_of(claim.job_id, claim.lease_token, 1, 1, (), Outcome(Status.COMPLETED))])
    assert harness.redis.hget(keys.PREFIX + "run", "id") == harness.redis.info("server")["run_id"]
