"""A deleted, damaged or evicted record loses only its own job. All others continue."""

from __future__ import annotations

import logging

import pytest

from harness.writing import flush, write_of
from tasks import keys
from tasks.errors import JobNotFoundError
from tasks.leases import WriteStatus
from tests.transitions.harness import Harness


@pytest.mark.parametrize("damage", ["all of it", "n", "owner", "score", "place", "fails"])
def test_a_lost_record_at_a_lines_head(
    harness: Harness, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    gone, following = harness.submit(), harness.submit()
    if damage == "all of it":
        harness.redis.delete(keys.job(gone))
    else:
        harness.redis.hdel(keys.job(gone), damage)
    if damage in ("score", "fails"):  # A job can run without it.
        harness.worker(1)
        assert harness.offered == [gone]
        return
    harness.worker(1)
    assert harness.offered == [following]
    harness.submit()
    assert harness.redis.zscore(keys.line("any:m"), gone) is None
    with caplog.at_level(logging.ERROR):
        harness.reap()
    assert f"the record of {gone} is missing or damaged" in caplog.text
    caplog.clear()
    harness.reap()
    assert not caplog.text


@pytest.mark.parametrize("place", ["offered", "leases"])
def test_a_lost_record_on_a_worker(harness: Harness, caplog: pytest.LogCaptureFixture, place: str) -> None:
    harness.worker(2)
    gone, other = harness.submit(n=2), harness.submit(n=2)
    if place == "leases":
        harness.claim(gone)
    harness.redis.delete(keys.job(gone))
    harness.make_due(f"{keys.PREFIX}{place}:echo:m", gone)
    assert harness.offered == [gone, other]
    assert harness.slots_taken() == {"w1": 2}
    assert f"the record of {gone} is missing or damaged" in caplog.text


def test_a_damaged_log(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """No transition of the job works, because its log is not a list."""
    harness.worker(2)
    damaged, other = (
        harness.claim(harness.submit(timeout=60)),
        harness.claim(harness.submit(timeout=60), "t2"),
    )
    for claim in (damaged, other):
        harness.redis.hset(keys.job(claim.job_id), mapping={"timeout_at": 1, "progress": 1})
        harness.redis.zadd(keys.leases("echo:m"), {claim.job_id: 0})
    harness.redis.delete(keys.log(damaged.job_id))
    harness.redis.set(keys.log(damaged.job_id), "no list")
    harness.reap()
    assert harness.store.get(other.job_id).status == "failed"
    assert harness.redis.zscore(keys.leases("echo:m"), damaged.job_id) is None
    harness.reap()
    assert f"the record of {damaged.job_id} is missing or damaged" in caplog.text


def test_a_lost_record_of_a_running_job(harness: Harness) -> None:
    harness.worker(2)
    gone, other = harness.claim(harness.submit(), "t1"), harness.claim(harness.submit(), "t2")
    harness.redis.delete(keys.job(gone.job_id))
    writes = [write_of(claim.job_id, claim.lease_token, 1, 1) for claim in (gone, other)]
    assert flush(harness.leases, writes) == [
        WriteStatus.FENCED,
        None,
    ]
    assert harness.leases.release([(gone.job_id, "t1"), (other.job_id, "t2")], "drained") == 1


def test_while_its_worker_deregisters(harness: Harness) -> None:
    harness.worker(2)
    gone, other = harness.submit(), harness.submit()
    harness.redis.delete(keys.job(gone))
    harness.worker(0)
    harness.worker(2, "w2")
    assert harness.offers[2:] == [("w2", other)]


@pytest.mark.parametrize("index", ["deadlines", "ended", "unpacked"])
def test_a_lost_record_in_an_index_of_times(harness: Harness, index: str) -> None:
    gone, other = (harness.submit(expires_in=60) for _ in range(2))
    if index != "deadlines":
        for job_id in (gone, other):
            harness.store.cancel(job_id)
    harness.redis.delete(keys.job(gone))
    for job_id in (gone, other):
        harness.redis.zadd(keys.PREFIX + index, {job_id: 0})
    harness.reap()
    match index:
        case "deadlines":
            assert harness.store.get(other).status == "expired"
        case "ended":
            with pytest.raises(JobNotFoundError):
                harness.store.get(other)
        case _:
            assert harness.redis.hexists(keys.job(other), "packed_log")
    assert harness.redis.zscore(keys.PREFIX + index, other) is None or index == "ended"


def test_clients_get_404_for_a_lost_record(harness: Harness) -> None:
    harness.worker(1)
    gone, other = harness.submit("ada"), harness.submit("ada")
    harness.redis.delete(keys.job(gone))
    with pytest.raises(JobNotFoundError):
        harness.store.get(gone)
    assert [job.id for job in harness.store.list_jobs("ada").jobs] == [other]
    with pytest.raises(JobNotFoundError):
        harness.store.cancel(gone)
