"""The workers and models that announced themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from redis import Redis

from tasks import keys
from tasks.answers import WorkerBody
from tasks.scripts import Scripts


@dataclass(frozen=True, slots=True)
class Model:
    """since: Unix time of its first worker. workers: the live ones, in the contract's form."""

    id: str
    since: float
    workers: Sequence[WorkerBody]


def live_workers(redis: Redis) -> list[WorkerBody]:
    """Returns what the live workers announced last, in the contract's form. Raises RedisError."""
    announced = cast("dict[str, str]", redis.hgetall(keys.WORKERS))
    seconds, micros = redis.time()
    live: set[str] = set()
    for model in cast("list[str]", redis.hkeys(keys.MODELS_SINCE)):
        for engine_pool in cast("set[str]", redis.smembers(keys.engine_pools(model))):
            alive = redis.zrangebyscore(keys.alive(engine_pool), seconds + micros / 1e6, "+inf")
            live.update(cast("list[str]", alive))
    return [json.loads(announced[worker]) for worker in sorted(live & announced.keys())]


class Readiness(StrEnum):
    """Whether a job that is submitted now can start now; readiness.lua explains each value."""

    READY = "ready"
    SETTLING = "settling"
    NO_WORKER = "no_worker"


def readiness(scripts: Scripts) -> Readiness:
    """Raises RedisError."""
    return Readiness(scripts.call("readiness").status)


def known_models(redis: Redis) -> list[Model]:
    """Returns every model that a worker ever announced, by name, with the workers that serve it now.

    Raises RedisError.
    """
    since = cast("dict[str, str]", redis.hgetall(keys.MODELS_SINCE))
    workers = live_workers(redis)
    return [
        Model(name, float(since[name]), [worker for worker in workers if worker["model"] == name])
        for name in sorted(since)
    ]
