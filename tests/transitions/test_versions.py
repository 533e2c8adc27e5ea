"""A fleet of two releases: jobs that only the newer one understands wait for it and block no other job."""

from __future__ import annotations

import pytest
from redis import Redis

from tasks import keys, request
from tasks.request import RECORD_VERSION
from tasks.settings import Settings
from tests.transitions.harness import Harness

NEWER = RECORD_VERSION + 1


@pytest.fixture
def harness(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """The harness of a release in which `timeout` is a new field."""
    monkeypatch.setattr(request, "SINCE_VERSION", {"timeout": NEWER})
    return Harness(redis, settings)


def test_a_job_waits_for_a_worker_that_understands_it(harness: Harness) -> None:
    harness.worker(2, "old")
    newer, usual = harness.submit(timeout=60), harness.submit()
    assert harness.offers == [("old", usual)]
    assert harness.store.get(newer).reason == (
        "the workers of this model are of an earlier release, which cannot run this request"
    )
    harness.worker(2, "new", version=NEWER)
    assert harness.offers[1:] == [("new", newer)]
    harness.claim(newer, worker="new")


def test_after_its_workers_death_it_waits_for_another_such_worker(harness: Harness) -> None:
    harness.worker(2, "new", version=NEWER)
    newer = harness.submit(timeout=60)
    harness.claim(newer, worker="new")
    harness.worker(2, "old")
    harness.redis.zrem(keys.alive("echo:m"), "new")
    harness.make_due(keys.leases("echo:m"), newer)
    assert harness.offers == [("new", newer)]
    harness.worker(2, "new", version=NEWER)
    assert harness.offers[1:] == [("new", newer)]


def test_a_newer_worker_runs_everything(harness: Harness) -> None:
    harness.worker(2, "new", version=NEWER)
    jobs = [harness.submit(), harness.submit(timeout=60)]
    assert harness.offered == jobs


def test_a_retry_has_the_jobs_record_version(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds even if an older web process, which does not know the field, is asked to retry."""
    newer = harness.submit(timeout=60)
    harness.store.cancel(newer)
    monkeypatch.setattr(request, "SINCE_VERSION", {})
    again = harness.store.retry(newer, "ada").job_id
    harness.worker(2, "old")
    assert harness.store.get(again).queue_position == 0
    assert not harness.offers
