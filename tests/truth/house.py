"""All that moves jobs on, on one Redis and without processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis

from tasks import keys
from tasks.job import Status
from tasks.leases import Claim, Finish, Leases, WorkerInfo, Write
from tasks.reaper import Reaper
from tasks.request import parse_request
from tasks.scripts import Offer
from tasks.settings import Settings
from tasks.store import Store


class House:
    """A store, a worker's leases and a reaper on one Redis; `offers` collects what went to Celery."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis: Any = redis
        self.settings = settings
        self.offers: list[Offer] = []
        self.store = Store(redis, settings, self.ring)
        self.leases = Leases(redis, settings, self.ring)
        self.reaper = Reaper(redis, settings, self.ring)

    def ring(self, offers: Sequence[Offer]) -> None:
        self.offers += offers

    @property
    def rung(self) -> list[str]:
        return [job_id for _, job_id in self.offers]

    def submit(self, owner: str = "ada", **options: Any) -> str:
        return self.store.submit(parse_request({"prompt": "x", **options}), owner).job_id

    def worker(
        self,
        slots: int,
        name: str = "w1",
        lifeline: str = "",
        length: int | None = None,
        version: int = keys.RECORD_VERSION,
    ) -> None:
        self.leases.heartbeat(WorkerInfo(name, "m", "echo", slots, 0, 0.0, length, lifeline, version))

    def claim(self, job_id: str, token: str = "t", worker: str = "w1") -> Claim:
        claim = self.leases.claim(job_id, token, worker, "echo:m", free_slots=8, held=0)
        assert isinstance(claim, Claim)
        return claim

    def finish(self, claim: Claim, base: int | None = None) -> None:
        """base: log length, where tokens were written since the claim."""
        base = len(claim.entries) if base is None else base
        self.leases.flush([Write(claim.job_id, claim.token, base, 1, (), Finish(Status.COMPLETED))])

    def make_due(self, index: str, job_id: str) -> None:
        self.redis.zadd(index, {job_id: 0})
        self.reap()

    def reap(self) -> None:
        self.redis.set(keys.PREFIX + "reaped_at", str(self.store._now()))
        self.reaper.reap()

    def slots_taken(self) -> dict[str, int]:
        """By worker."""
        return {worker: int(slots) for worker, slots in self.redis.hgetall(keys.slots("echo:m")).items()}
