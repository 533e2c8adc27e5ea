"""Several engines on one model: a job goes to workers that may take it, each pool counts its own slots."""

from __future__ import annotations

import pytest
from redis import Redis

from tasks import keys
from tasks.errors import InvalidRequestError, QueueFullError
from tasks.leases import Claim, Refusal, WorkerInfo
from tasks.settings import EngineKind, Settings
from tests.truth.house import House

POOLS = {"slow": keys.pool("m", "transformers"), "fast": keys.pool("m", "vllm")}
SLOW, FAST = POOLS
"""Workers, each the only one of its pool."""


@pytest.fixture
def house(redis: Redis, settings: Settings) -> House:
    return House(redis, settings)


def worker(house: House, engine: EngineKind, slots: int, model: str = "m") -> WorkerInfo:
    name = FAST if engine is EngineKind.VLLM else SLOW
    info = WorkerInfo(name, model, engine, slots, 0, 0.0)
    house.leases.heartbeat(info)
    return info


def slow(house: House, slots: int) -> WorkerInfo:
    return worker(house, EngineKind.TRANSFORMERS, slots)


def fast(house: House, slots: int) -> WorkerInfo:
    return worker(house, EngineKind.VLLM, slots)


def claim(house: House, job_id: str, worker: str) -> Claim:
    claim = house.leases.claim(job_id, job_id, worker, POOLS[worker], free_slots=8, held=0)
    assert isinstance(claim, Claim)
    return claim


def die(house: House, worker: str) -> None:
    """It has been silent for a lease, and the reaper comes."""
    house.redis.zadd(keys.alive(POOLS[worker]), {worker: 0})
    house.reap()


def test_a_job_for_any_engine_goes_where_most_slots_are_free(house: House) -> None:
    slow(house, 2)
    fast(house, 3)
    job_ids = [house.submit() for _ in range(6)]
    assert house.rung == job_ids[:5]
    assert house.offers[0] == (FAST, job_ids[0])
    assert {name for name, _ in house.offers[1:3]} == {SLOW, FAST}
    assert sorted(name for name, _ in house.offers) == [FAST, FAST, FAST, SLOW, SLOW]


def test_a_job_for_one_engine_waits_for_it_beside_free_slots_of_another(house: House) -> None:
    slow(house, 4)
    fast(house, 1)
    bound = [house.submit(engine="vllm") for _ in range(3)]
    free = house.submit()
    assert house.offers == [(FAST, bound[0]), (SLOW, free)]
    house.finish(claim(house, bound[0], FAST))
    assert house.offers[2:] == [(FAST, bound[1])]


def test_the_lines_of_a_pool_are_served_in_the_order_of_their_tags(house: House) -> None:
    fast(house, 1)
    running = house.submit("ada")
    job_ids = [house.submit("ada"), house.submit("ada", engine="vllm"), house.submit("ada")]
    for job_id in [running, *job_ids]:
        assert house.rung[-1] == job_id
        house.finish(claim(house, job_id, FAST))
    assert house.rung == [running, *job_ids]


def test_an_owner_who_asks_for_one_engine_has_no_turns_of_his_own(house: House) -> None:
    fast(house, 1)
    running = house.submit("ada")
    backlog = [house.submit("ada") for _ in range(3)]
    single = house.submit("bob", engine="vllm")
    house.finish(claim(house, running, FAST))
    house.finish(claim(house, house.rung[-1], FAST))
    assert set(house.rung[1:]) == {backlog[0], single}


def test_positions_count_the_jobs_before_in_both_lines(house: House) -> None:
    fast(house, 1)
    fast(house, 0)
    job_ids = [house.submit("ada", engine=engine) for engine in (None, "vllm", None, "vllm")]
    assert [house.store.get(job_id).queue_position for job_id in job_ids] == [0, 1, 2, 3]


def test_a_late_message_brings_no_job_to_another_worker(house: House) -> None:
    """It went back to the line and to other workers while the message was under way."""
    gone = slow(house, 1)
    job_id = house.submit()
    assert house.offers == [(SLOW, job_id)]
    fast(house, 1)
    house.leases.goodbye(gone)
    assert house.offers[1:] == [(FAST, job_id)]
    for pool in POOLS.values():
        assert house.leases.claim(job_id, "late", SLOW, pool, free_slots=1, held=0) is Refusal.GONE
    claim(house, job_id, FAST)


def test_offers_of_a_worker_that_is_gone_go_to_others(house: House) -> None:
    fast(house, 2)
    free, bound = house.submit(), house.submit(engine="vllm")
    assert house.offers == [(FAST, free), (FAST, bound)]
    die(house, FAST)
    house.make_due(keys.offered(POOLS[FAST]), free)
    assert house.offers[2:] == [(FAST, free)], "nobody else could take it: its worker may only be late"
    slow(house, 1)
    for job_id in (free, bound):
        house.make_due(keys.offered(POOLS[FAST]), job_id)
    assert house.offers[3:] == [(SLOW, free), (FAST, bound)]
    assert house.store.get(bound).reason == "no worker serves this model at present"


def test_a_worker_that_is_slow_keeps_its_offers(house: House) -> None:
    """A claim may take longer than an offer waits before it is rung again."""
    fast(house, 2)
    job_id = house.submit()
    slow(house, 8)
    house.make_due(keys.offered(POOLS[FAST]), job_id)
    assert house.offers == [(FAST, job_id), (FAST, job_id)]
    claim(house, job_id, FAST)


def test_a_worker_that_drains_is_offered_nothing_and_what_it_was_goes_to_others(house: House) -> None:
    fast(house, 2)
    job_id = house.submit()
    slow(house, 2)
    fast(house, 0)
    assert house.offers == [(FAST, job_id), (SLOW, job_id)]


def test_what_one_engine_began_another_goes_on_with(house: House) -> None:
    fast(house, 1)
    begun, bound = house.submit(), house.submit(engine="vllm")
    claim(house, begun, FAST)
    slow(house, 1)
    die(house, FAST)
    house.make_due(keys.leases(POOLS[FAST]), begun)
    assert house.offers[1:] == [(SLOW, begun)]
    assert len(claim(house, begun, SLOW).entries) == 2
    assert house.store.get(bound).reason == "no worker serves this model at present"


def test_a_job_too_wide_for_a_pool_is_left_to_another(house: House) -> None:
    slow(house, 8)
    fast(house, 2)
    running = house.submit(n=8)
    wide, bound = house.submit(n=4), house.submit(engine="vllm", n=2)
    assert house.offers == [(SLOW, running), (FAST, bound)]
    house.finish(claim(house, running, SLOW))
    assert house.offers[2:] == [(SLOW, wide)]


def test_an_engine_that_never_served_the_model_is_refused(house: House) -> None:
    slow(house, 2)
    worker(house, EngineKind.VLLM, 2, model="other")
    with pytest.raises(InvalidRequestError) as caught:
        house.submit(engine="vllm")
    assert [error.field for error in caught.value.errors] == ["engine"]
    house.submit(engine="vllm", model="other")


def test_too_many_choices_for_the_engine_are_refused(house: House) -> None:
    slow(house, 4)
    fast(house, 2)
    house.submit(n=4)
    with pytest.raises(InvalidRequestError, match="n: exceeds the 2 slots of the widest worker"):
        house.submit(n=4, engine="vllm")


def test_a_full_model_is_full_for_every_engine(redis: Redis, settings: Settings) -> None:
    house = House(redis, settings.model_copy(update={"max_queued_jobs": 2}))
    fast(house, 1)
    running, _ = house.submit(), house.submit()
    assert house.rung == [running]
    house.submit(engine="vllm")
    for engine in (None, "vllm"):
        with pytest.raises(QueueFullError):
            house.submit(engine=engine)


def test_an_engine_without_a_worker_yet_is_full_too(redis: Redis, settings: Settings) -> None:
    """The web's own, which is known before its first worker came up."""
    house = House(redis, settings.model_copy(update={"max_queued_jobs": 1}))
    house.submit(engine=settings.engine)
    with pytest.raises(QueueFullError):
        house.submit(engine=settings.engine)
