"""The Lua transitions: loaded from `tasks/lua`, called by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from redis import Redis

from tasks import keys
from tasks.settings import Settings

LUA = Path(__file__).parent / "lua"

Argument = str | int | float
Offer = tuple[str, str]
"""(worker, job id): a job that the worker shall be told of through Celery."""

SendOffers = Callable[[Sequence[Offer]], None]
"""Sends offers to Celery. What it loses is offered again by the reaper."""


class Scripts:
    """Calls the scripts with the arguments that all of them share in front."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._shared = (
            keys.PREFIX,
            settings.lease_seconds,
            keys.RESEND_OFFER_SECONDS,
            settings.job_retention_seconds,
        )
        self._scripts = {
            path.stem: redis.register_script(_source(path))
            for path in LUA.glob("*.lua")
            if path.stem != "prelude"
        }

    def call(self, name: str, *arguments: Argument) -> Any:
        """Run `lua/<name>.lua`. Raises redis.exceptions.RedisError."""
        return self._scripts[name](keys=(), args=(*self._shared, *arguments))


@cache
def _source(path: Path) -> str:
    return (LUA / "prelude.lua").read_text() + path.read_text()


def as_offers(answer: Sequence[Sequence[str]]) -> list[Offer]:
    """A script's list of offers, typed."""
    return [(worker, job_id) for worker, job_id in answer]
