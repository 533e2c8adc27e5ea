"""A fleet of two releases: what only the newer one understands is left to it, and blocks nobody."""

from __future__ import annotations

import pytest
from redis import Redis

from tasks import keys, request
from tasks.settings import Settings
from tests.truth.house import House

NEWER = keys.RECORD_VERSION + 1


@pytest.fixture
def house(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> House:
    """Of a release in which `timeout` is a new field."""
    monkeypatch.setattr(request, "SINCE_VERSION", {"timeout": NEWER})
    return House(redis, settings)


def test_a_job_waits_for_a_worker_that_understands_it(house: House) -> None:
    house.worker(2, "old")
    newer, usual = house.submit(timeout=60), house.submit()
    assert house.offers == [("old", usual)]
    assert house.store.get(newer).reason == (
        "the workers of this model are of an earlier release, which cannot run this request"
    )
    house.worker(2, "new", version=NEWER)
    assert house.offers[1:] == [("new", newer)]
    house.claim(newer, worker="new")


def test_it_comes_back_in_line_for_such_a_worker(house: House) -> None:
    house.worker(2, "new", version=NEWER)
    newer = house.submit(timeout=60)
    house.claim(newer, worker="new")
    house.worker(2, "old")
    house.redis.zrem(keys.alive("echo:m"), "new")
    house.make_due(keys.leases("echo:m"), newer)
    assert house.offers == [("new", newer)]
    house.worker(2, "new", version=NEWER)
    assert house.offers[1:] == [("new", newer)]


def test_a_newer_worker_runs_everything(house: House) -> None:
    house.worker(2, "new", version=NEWER)
    jobs = [house.submit(), house.submit(timeout=60)]
    assert house.rung == jobs


def test_a_retry_asks_for_what_the_job_asked_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an older web, which does not know the field, is asked for it."""
    newer = house.submit(timeout=60)
    house.store.cancel(newer)
    monkeypatch.setattr(request, "SINCE_VERSION", {})
    again = house.store.retry(newer, "ada").job_id
    house.worker(2, "old")
    assert house.store.get(again).queue_position == 0
    assert not house.offers
