"""Whether jobs can start now, and why not."""

from __future__ import annotations

from tasks import keys
from tasks.registry import Readiness
from tests.transitions.harness import Harness

RUN = keys.PREFIX + "run"


def restart_redis(harness: Harness) -> None:
    harness.redis.hset(RUN, "id", "of the process before")


def test_a_worker_that_takes_jobs_makes_the_product_ready(harness: Harness) -> None:
    assert harness.store.readiness() is Readiness.NO_WORKER
    harness.worker(4)
    assert harness.store.readiness() is Readiness.READY
    harness.worker(0)  # It drains.
    assert harness.store.readiness() is Readiness.NO_WORKER


def test_nothing_is_ready_until_a_restarted_redis_has_settled(harness: Harness) -> None:
    """This holds before the reaper has noticed the restart, and afterwards."""
    harness.worker(4)
    harness.reap()
    offered, waiting = harness.submit(n=4), harness.submit()
    assert harness.store.get(offered).reason == "a worker is about to start it"
    restart_redis(harness)
    for _ in range(2):
        assert harness.store.readiness() is Readiness.SETTLING
        assert harness.store.get(offered).reason == (
            "Redis was restarted a moment ago; a worker starts it within a few seconds"
        )
        assert harness.store.get(waiting).reason == "next in line"
        harness.reap()
    harness.redis.hset(RUN, "settled_at", "0")
    assert harness.store.readiness() is Readiness.READY
    assert harness.store.get(offered).reason == "a worker is about to start it"


def test_a_worker_whose_process_has_ended_makes_nothing_ready(harness: Harness) -> None:
    """Its announcement lasts for a lease, and a Redis that comes back late even renews it."""
    channel = keys.lifeline("w1", "p")
    with harness.redis.pubsub() as lifeline:
        lifeline.subscribe(channel)
        lifeline.get_message(timeout=10)
        harness.worker(4, lifeline=channel)
        assert harness.store.readiness() is Readiness.READY
        lifeline.unsubscribe(channel)
        while (message := lifeline.get_message(timeout=10)) and message["type"] != "unsubscribe":
            pass
    assert harness.store.readiness() is Readiness.NO_WORKER
    harness.worker(4, "w2")
    assert harness.store.readiness() is Readiness.READY
