"""Redis comes back without its last second: whoever has seen more of a job than Redis goes on with it."""

from __future__ import annotations

import pytest
from redis import Redis

from tasks import keys
from tasks.job import Status
from tasks.leases import Claim, Finish, Refusal, Word, Write
from tasks.log import StatusEntry, TokenEntry
from tasks.settings import Settings
from tests.truth.house import House

TOKENS = [TokenEntry(0, (i,), f"t{i}") for i in range(4)]


class Memory:
    """All that a Redis knows at one moment."""

    def __init__(self, house: House) -> None:
        self._url = house.settings.required_redis_url
        with Redis.from_url(self._url) as raw:  # A connection of its own, because dumps are bytes.
            self._dumps = {key: raw.dump(key) for key in raw.scan_iter()}

    def come_back(self) -> None:
        """Redis forgets what came later, as the same process: claims need not wait for it to settle."""
        with Redis.from_url(self._url) as raw:
            raw.flushall()
            for key, dump in self._dumps.items():
                raw.restore(key, 0, dump)


@pytest.fixture
def house(redis: Redis, settings: Settings) -> House:
    house = House(redis, settings)
    house.worker(4)
    return house


def flush(house: House, claim: Claim, base: int, tokens: list[TokenEntry]) -> Word:
    [written] = house.leases.flush([Write(claim.job_id, claim.token, base, 1, tokens)])
    return written.word


def log(house: House, job_id: str) -> list[str]:
    return list(house.redis.lrange(keys.log(job_id), 0, -1))


def places(house: House, job_id: str) -> list[str]:
    indexes = {"line": keys.line("any:m"), "offered": keys.offered("echo:m"), "leases": keys.leases("echo:m")}
    return [place for place, index in indexes.items() if house.redis.zscore(index, job_id) is not None]


@pytest.mark.parametrize("place", ["line", "offered"])
def test_a_claim_that_redis_forgot_is_taken_back(house: House, place: str) -> None:
    if place == "line":
        house.worker(0)
    job_id = house.submit()
    memory = Memory(house)
    house.worker(4)
    claim = house.claim(job_id)
    flush(house, claim, 1, TOKENS[:2])
    memory.come_back()
    assert places(house, job_id) == [place]
    assert flush(house, claim, 3, TOKENS[2:]) is Word.FENCED
    for _ in range(2):  # Twice, as after an answer that was lost.
        assert house.leases.take_back(claim, "w1", "echo:m")
        assert places(house, job_id) == ["leases"]
    assert flush(house, claim, 1, TOKENS) is Word.OK
    house.finish(claim, base=5)
    job = house.store.get(job_id, "ada")
    assert (job.status, [attempt.number for attempt in job.attempts]) == (Status.COMPLETED, [1])
    assert house.slots_taken() == {}


def test_what_an_earlier_attempt_wrote_comes_back_with_its_successors_claim(house: House) -> None:
    """A drain handed the job over, and Redis forgot the end of one attempt and the claim of the other."""
    job_id = house.submit()
    first = house.claim(job_id, "first")
    flush(house, first, 1, TOKENS[:1])
    memory = Memory(house)
    flush(house, first, 2, TOKENS[1:3])
    house.leases.release([(job_id, "first")], "drained")
    second = house.claim(job_id, "second")
    assert second.entries == [StatusEntry(1), *TOKENS[:3], StatusEntry(2)]
    memory.come_back()
    assert flush(house, second, 5, TOKENS[3:]) is Word.FENCED
    for _ in range(2):
        assert house.leases.take_back(second, "w1", "echo:m")
    assert log(house, job_id) == [entry.encode() for entry in second.entries]
    assert flush(house, first, 4, TOKENS[3:]) is Word.FENCED
    assert flush(house, second, 5, TOKENS[3:]) is Word.OK
    house.finish(second, base=6)
    job = house.store.get(job_id, "ada")
    assert [(attempt.number, attempt.reason) for attempt in job.attempts] == [
        (1, "forgotten by Redis"),
        (2, None),
    ]
    assert house.slots_taken() == {}


def test_long_output_comes_back_whole(house: House) -> None:
    """More entries than Lua passes on in one call."""
    job_id = house.submit()
    memory = Memory(house)
    first = house.claim(job_id, "first")
    flush(house, first, 1, [TokenEntry(0, (i,), str(i)) for i in range(2500)])
    house.leases.release([(job_id, "first")], "drained")
    second = house.claim(job_id, "second")
    memory.come_back()
    assert house.leases.take_back(second, "w1", "echo:m")
    assert log(house, job_id) == [entry.encode() for entry in second.entries]


def test_nothing_is_taken_from_who_claimed_it_since(house: House) -> None:
    job_id = house.submit()
    memory = Memory(house)
    forgotten = house.claim(job_id, "forgotten")
    memory.come_back()
    house.claim(job_id, "later")
    assert not house.leases.take_back(forgotten, "w1", "echo:m")
    assert house.redis.hget(keys.job(job_id), "token") == "later"


def test_nothing_is_taken_back_over_another_text(house: House) -> None:
    job_id = house.submit()
    first = house.claim(job_id, "first")
    memory = Memory(house)
    flush(house, first, 1, TOKENS)
    house.leases.release([(job_id, "first")], "drained")
    second = house.claim(job_id, "second")
    memory.come_back()
    flush(house, first, 1, [TokenEntry(0, (1, 2), "t1t2")])
    assert not house.leases.take_back(second, "w1", "echo:m")
    assert house.redis.hget(keys.job(job_id), "token") == "first"


def test_an_ended_job_is_not_taken_back(house: House) -> None:
    job_id = house.submit()
    memory = Memory(house)
    claim = house.claim(job_id)
    memory.come_back()
    house.store.cancel(job_id)
    assert not house.leases.take_back(claim, "w1", "echo:m")
    assert house.store.get(job_id, "ada").status is Status.CANCELLED


def test_nobody_claims_until_a_redis_that_came_back_has_settled(house: House) -> None:
    """What looks unclaimed may run."""
    held, waiting = house.submit(), house.submit()
    memory = Memory(house)
    claim = house.claim(held)
    memory.come_back()
    house.redis.hset(keys.PREFIX + "run", "id", "of the process before")
    house.reaper.reap()
    for _ in range(2):
        assert house.leases.claim(held, "other", "w1", "echo:m", 8, 0) is Refusal.SETTLING
        assert house.leases.claim(waiting, "other", "w1", "echo:m", 8, 0) is Refusal.SETTLING
    assert house.leases.take_back(claim, "w1", "echo:m")
    house.redis.hset(keys.PREFIX + "run", "settled_at", "0")
    assert house.leases.claim(held, "other", "w1", "echo:m", 8, 0) is Refusal.GONE
    assert house.claim(waiting, "other").token == "other"


def test_a_redis_that_is_new_need_not_settle(house: House) -> None:
    assert house.redis.hget(keys.PREFIX + "run", "id") is None
    claim = house.claim(house.submit())
    house.leases.flush([Write(claim.job_id, claim.token, 1, 1, (), Finish(Status.COMPLETED))])
    assert house.redis.hget(keys.PREFIX + "run", "id") == house.redis.info("server")["run_id"]
