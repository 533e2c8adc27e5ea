"""The one way to call the Lua transitions: named arguments in, a typed answer out, offers sent to Celery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from redis import Redis

from tasks import keys
from tasks.script_source import LUA, Encoded, Script, assemble
from tasks.settings import Settings

SHARED_ARGUMENTS = {
    "PREFIX": "text",
    "LEASE_SECONDS": "number",
    "RESEND_OFFER_SECONDS": "number",
    "RETENTION_SECONDS": "number",
}
"""The arguments that every script takes before its own ones."""

Offer = tuple[str, str]
"""(worker, job id): a job that is offered to the worker through Celery."""

SendOffers = Callable[[Sequence[Offer]], None]
"""Sends offers to Celery. If one is lost, the reaper sends it again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A script's answer. The comment at its head lists the statuses and their fields."""

    status: str
    fields: dict[str, Any]

    def __getitem__(self, field: str) -> Any:
        return self.fields[field]


class Scripts:
    """Calls the scripts and sends the offers that they make to Celery."""

    def __init__(self, redis: Redis, settings: Settings, send_offers: SendOffers) -> None:
        self.redis = redis
        self.settings = settings
        self._send_offers = send_offers
        self._shared = {
            "PREFIX": keys.PREFIX,
            "LEASE_SECONDS": settings.lease_seconds,
            "RESEND_OFFER_SECONDS": keys.RESEND_OFFER_SECONDS,
            "RETENTION_SECONDS": settings.job_retention_seconds,
        }
        self._registered = {
            name: redis.register_script(script.text) for name, script in all_scripts().items()
        }

    def call(self, name: str, **arguments: Any) -> Answer:
        """Runs `lua/<name>.lua`. Raises redis.exceptions.RedisError, and TypeError on wrong arguments."""
        status, offers, *flat = self._run(name, all_scripts()[name].encode({**self._shared, **arguments}))
        if offers:
            self._send_offers([(worker, job_id) for worker, job_id in offers])
        return Answer(status, dict(zip(flat[::2], flat[1::2], strict=True)))

    def _run(self, name: str, arguments: Sequence[Encoded]) -> Any:
        return self._registered[name](keys=(), args=arguments)


@cache
def all_scripts() -> dict[str, Script]:
    """Returns every script by its file's name."""
    return {path.stem: assemble(path, SHARED_ARGUMENTS) for path in LUA.glob("*.lua")}
