"""Several engines on one model: only workers that may run a job get it, and each pool counts its slots."""

from __future__ import annotations

import pytest
from redis import Redis

from tasks import keys
from tasks.errors import InvalidRequestError, QueueFullError
from tasks.leases import Claim, Refusal, WorkerInfo
from tasks.settings import EngineKind, Settings
from tests.transitions.harness import Harness

ENGINE_POOLS = {"slow": keys.engine_pool("m", "transformers"), "fast": keys.engine_pool("m", "vllm")}
SLOW, FAST = ENGINE_POOLS
"""Two workers, each the only one of its engine pool."""


def worker(harness: Harness, engine: EngineKind, slots: int, model: str = "m") -> WorkerInfo:
    name = FAST if engine is EngineKind.VLLM else SLOW
    info = WorkerInfo(name, model, engine, slots, 0, 0.0)
    harness.leases.heartbeat(info)
    return info


def slow(harness: Harness, slots: int) -> WorkerInfo:
    return worker(harness, EngineKind.TRANSFORMERS, slots)


def fast(harness: Harness, slots: int) -> WorkerInfo:
    return worker(harness, EngineKind.VLLM, slots)


def claim(harness: Harness, job_id: str, worker: str) -> Claim:
    claim = harness.leases.claim(job_id, job_id, worker, ENGINE_POOLS[worker], free_slots=8, held=0)
    assert isinstance(claim, Claim)
    return claim


def die(harness: Harness, worker: str) -> None:
    """Makes the worker's last heartbeat a lease old, and calls the reaper."""
    harness.redis.zadd(keys.alive(ENGINE_POOLS[worker]), {worker: 0})
    harness.reap()


def test_a_job_for_any_engine_goes_where_most_slots_are_free(harness: Harness) -> None:
    slow(harness, 2)
    fast(harness, 3)
    job_ids = [harness.submit() for _ in range(6)]
    assert harness.offered == job_ids[:5]
    assert harness.offers[0] == (FAST, job_ids[0])
    assert {name for name, _ in harness.offers[1:3]} == {SLOW, FAST}
    assert sorted(name for name, _ in harness.offers) == [FAST, FAST, FAST, SLOW, SLOW]


def test_a_job_for_one_engine_waits_for_it_beside_free_slots_of_another(harness: Harness) -> None:
    slow(harness, 4)
    fast(harness, 1)
    bound = [harness.submit(engine="vllm") for _ in range(3)]
    free = harness.submit()
    assert harness.offers == [(FAST, bound[0]), (SLOW, free)]
    harness.complete(claim(harness, bound[0], FAST))
    assert harness.offers[2:] == [(FAST, bound[1])]


def test_the_lines_of_a_pool_are_served_in_the_order_of_their_tags(harness: Harness) -> None:
    fast(harness, 1)
    running = harness.submit("ada")
    job_ids = [harness.submit("ada"), harness.submit("ada", engine="vllm"), harness.submit("ada")]
    for job_id in [running, *job_ids]:
        assert harness.offered[-1] == job_id
        harness.complete(claim(harness, job_id, FAST))
    assert harness.offered == [running, *job_ids]


def test_an_owner_who_asks_for_one_engine_has_no_turns_of_his_own(harness: Harness) -> None:
    fast(harness, 1)
    running = harness.submit("ada")
    backlog = [harness.submit("ada") for _ in range(3)]
    single = harness.submit("bob", engine="vllm")
    harness.complete(claim(harness, running, FAST))
    harness.complete(claim(harness, harness.offered[-1], FAST))
    assert set(harness.offered[1:]) == {backlog[0], single}


def test_positions_count_the_jobs_before_in_both_lines(harness: Harness) -> None:
    fast(harness, 1)
    fast(harness, 0)
    job_ids = [harness.submit("ada", engine=engine) for engine in (None, "vllm", None, "vllm")]
    assert [harness.store.get(job_id).queue_position for job_id in job_ids] == [0, 1, 2, 3]


def test_a_late_message_brings_no_job_to_another_worker(harness: Harness) -> None:
    """The job went back to the line and to other workers before the message arrived."""
    gone = slow(harness, 1)
    job_id = harness.submit()
    assert harness.offers == [(SLOW, job_id)]
    fast(harness, 1)
    harness.leases.deregister(gone)
    assert harness.offers[1:] == [(FAST, job_id)]
    for engine_pool in ENGINE_POOLS.values():
        assert harness.leases.claim(job_id, "late", SLOW, engine_pool, free_slots=1, held=0) is Refusal.GONE
    claim(harness, job_id, FAST)


def test_offers_of_a_worker_that_is_gone_go_to_others(harness: Harness) -> None:
    fast(harness, 2)
    free, bound = harness.submit(), harness.submit(engine="vllm")
    assert harness.offers == [(FAST, free), (FAST, bound)]
    die(harness, FAST)
    harness.make_due(keys.offered(ENGINE_POOLS[FAST]), free)
    assert harness.offers[2:] == [(FAST, free)], "no other worker can take it, and its own may only be late"
    slow(harness, 1)
    for job_id in (free, bound):
        harness.make_due(keys.offered(ENGINE_POOLS[FAST]), job_id)
    assert harness.offers[3:] == [(SLOW, free), (FAST, bound)]
    assert harness.store.get(bound).reason == "no worker serves this model at present"


def test_a_worker_that_is_slow_keeps_its_offers(harness: Harness) -> None:
    """A claim may take longer than RESEND_OFFER_SECONDS."""
    fast(harness, 2)
    job_id = harness.submit()
    slow(harness, 8)
    harness.make_due(keys.offered(ENGINE_POOLS[FAST]), job_id)
    assert harness.offers == [(FAST, job_id), (FAST, job_id)]
    claim(harness, job_id, FAST)


def test_a_worker_that_drains_gets_no_offers_and_its_open_ones_go_to_others(harness: Harness) -> None:
    fast(harness, 2)
    job_id = harness.submit()
    slow(harness, 2)
    fast(harness, 0)
    assert harness.offers == [(FAST, job_id), (SLOW, job_id)]


def test_another_engine_continues_a_job(harness: Harness) -> None:
    fast(harness, 1)
    begun, bound = harness.submit(), harness.submit(engine="vllm")
    claim(harness, begun, FAST)
    slow(harness, 1)
    die(harness, FAST)
    harness.make_due(keys.leases(ENGINE_POOLS[FAST]), begun)
    assert harness.offers[1:] == [(SLOW, begun)]
    assert len(claim(harness, begun, SLOW).entries) == 2
    assert harness.store.get(bound).reason == "no worker serves this model at present"


def test_a_job_too_wide_for_a_pool_is_left_to_another(harness: Harness) -> None:
    slow(harness, 8)
    fast(harness, 2)
    running = harness.submit(n=8)
    wide, bound = harness.submit(n=4), harness.submit(engine="vllm", n=2)
    assert harness.offers == [(SLOW, running), (FAST, bound)]
    harness.complete(claim(harness, running, SLOW))
    assert harness.offers[2:] == [(SLOW, wide)]


def test_an_engine_that_never_served_the_model_is_refused(harness: Harness) -> None:
    slow(harness, 2)
    worker(harness, EngineKind.VLLM, 2, model="other")
    with pytest.raises(InvalidRequestError) as caught:
        harness.submit(engine="vllm")
    assert [error.field for error in caught.value.errors] == ["engine"]
    harness.submit(engine="vllm", model="other")


def test_too_many_choices_for_the_engine_are_refused(harness: Harness) -> None:
    slow(harness, 4)
    fast(harness, 2)
    harness.submit(n=4)
    with pytest.raises(InvalidRequestError, match="n: exceeds the 2 slots of the widest worker"):
        harness.submit(n=4, engine="vllm")


def test_a_full_model_is_full_for_every_engine(redis: Redis, settings: Settings) -> None:
    harness = Harness(redis, settings.model_copy(update={"max_queued_jobs": 2}))
    fast(harness, 1)
    running, _ = harness.submit(), harness.submit()
    assert harness.offered == [running]
    harness.submit(engine="vllm")
    for engine in (None, "vllm"):
        with pytest.raises(QueueFullError):
            harness.submit(engine=engine)


def test_an_engine_without_a_worker_yet_is_full_too(redis: Redis, settings: Settings) -> None:
    """The engine that the web server is set to is known before its first worker has started."""
    harness = Harness(redis, settings.model_copy(update={"max_queued_jobs": 1}))
    harness.submit(engine=settings.engine)
    with pytest.raises(QueueFullError):
        harness.submit(engine=settings.engine)
