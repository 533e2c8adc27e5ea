"""A record that somebody deleted or damaged, or that Redis evicted, costs that job and nobody else."""

from __future__ import annotations

import logging

import pytest
from redis import Redis

from tasks import keys
from tasks.errors import JobNotFoundError
from tasks.leases import Word, Write
from tasks.settings import Settings
from tests.truth.house import House


@pytest.fixture
def house(redis: Redis, settings: Settings) -> House:
    return House(redis, settings)


@pytest.mark.parametrize("damage", ["all of it", "n", "owner", "score", "place", "fails"])
def test_at_the_head_of_a_line(house: House, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    gone, following = house.submit(), house.submit()
    if damage == "all of it":
        house.redis.delete(keys.job(gone))
    else:
        house.redis.hdel(keys.job(gone), damage)
    if damage in ("score", "fails"):  # It can do without.
        house.worker(1)
        assert house.rung == [gone]
        return
    house.worker(1)
    assert house.rung == [following]
    house.submit()
    assert house.redis.zscore(keys.line("any:m"), gone) is None
    with caplog.at_level(logging.ERROR):
        house.reap()
    assert f"the record of {gone} is missing or damaged" in caplog.text
    caplog.clear()
    house.reap()
    assert not caplog.text


@pytest.mark.parametrize("place", ["offered", "leases"])
def test_of_a_worker(house: House, caplog: pytest.LogCaptureFixture, place: str) -> None:
    house.worker(2)
    gone, other = house.submit(n=2), house.submit(n=2)
    if place == "leases":
        house.claim(gone)
    house.redis.delete(keys.job(gone))
    house.make_due(f"{keys.PREFIX}{place}:echo:m", gone)
    assert house.rung == [gone, other]
    assert house.slots_taken() == {"w1": 2}
    assert f"the record of {gone} is missing or damaged" in caplog.text


def test_a_damaged_one(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """No step of its life is possible any more, as its log is no list."""
    house.worker(2)
    damaged, other = house.claim(house.submit(timeout=60)), house.claim(house.submit(timeout=60), "t2")
    for claim in (damaged, other):
        house.redis.hset(keys.job(claim.job_id), mapping={"timeout_at": 1, "progress": 1})
        house.redis.zadd(keys.leases("echo:m"), {claim.job_id: 0})
    house.redis.delete(keys.log(damaged.job_id))
    house.redis.set(keys.log(damaged.job_id), "no list")
    house.reap()
    assert house.store.get(other.job_id).status == "failed"
    assert house.redis.zscore(keys.leases("echo:m"), damaged.job_id) is None
    house.reap()
    assert f"the record of {damaged.job_id} is missing or damaged" in caplog.text


def test_under_its_worker(house: House) -> None:
    house.worker(2)
    gone, other = house.claim(house.submit(), "t1"), house.claim(house.submit(), "t2")
    house.redis.delete(keys.job(gone.job_id))
    writes = [Write(claim.job_id, claim.token, 1, 1) for claim in (gone, other)]
    assert [written.word for written in house.leases.flush(writes)] == [Word.FENCED, Word.OK]
    assert house.leases.release([(gone.job_id, "t1"), (other.job_id, "t2")], "drained") == 1


def test_while_its_worker_says_goodbye(house: House) -> None:
    house.worker(2)
    gone, other = house.submit(), house.submit()
    house.redis.delete(keys.job(gone))
    house.worker(0)
    house.worker(2, "w2")
    assert house.offers[2:] == [("w2", other)]


@pytest.mark.parametrize("index", ["deadlines", "ended", "unpacked"])
def test_in_an_index_of_times(house: House, index: str) -> None:
    gone, other = (house.submit(expires_in=60) for _ in range(2))
    if index != "deadlines":
        for job_id in (gone, other):
            house.store.cancel(job_id)
    house.redis.delete(keys.job(gone))
    for job_id in (gone, other):
        house.redis.zadd(keys.PREFIX + index, {job_id: 0})
    house.reap()
    match index:
        case "deadlines":
            assert house.store.get(other).status == "expired"
        case "ended":
            with pytest.raises(JobNotFoundError):
                house.store.get(other)
        case _:
            assert house.redis.hexists(keys.job(other), "packed_log")
    assert house.redis.zscore(keys.PREFIX + index, other) is None or index == "ended"


def test_for_clients(house: House) -> None:
    house.worker(1)
    gone, other = house.submit("ada"), house.submit("ada")
    house.redis.delete(keys.job(gone))
    with pytest.raises(JobNotFoundError):
        house.store.get(gone)
    assert [job.id for job in house.store.list_jobs("ada").jobs] == [other]
    with pytest.raises(JobNotFoundError):
        house.store.cancel(gone)
