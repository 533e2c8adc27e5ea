"""Everything that changes jobs, in one process and with one Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis

from harness.writing import flush, write_of
from tasks import keys
from tasks.job import Status
from tasks.leases import Claim, Leases, Outcome, WorkerInfo
from tasks.reaper import Reaper
from tasks.reasoning_marks import ReasoningMarks
from tasks.request import RECORD_VERSION, parse_request
from tasks.scripts import Offer, Scripts
from tasks.settings import Settings
from tasks.store import Store


class Harness:
    """A store, a worker's leases and a reaper on one Redis. `offers` collects what would go to Celery."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis: Any = redis
        self.settings = settings
        self.offers: list[Offer] = []
        self.scripts = Scripts(redis, settings, self.send_offers)
        self.store = Store(self.scripts)
        self.leases = Leases(self.scripts)
        self.reaper = Reaper(self.scripts)

    def send_offers(self, offers: Sequence[Offer]) -> None:
        self.offers += offers

    @property
    def offered(self) -> list[str]:
        """Returns the ids of all jobs that were offered, in order."""
        return [job_id for _, job_id in self.offers]

    def submit(self, owner: str = "ada", **options: Any) -> str:
        return self.store.submit(parse_request({"prompt": "x", **options}), owner).job_id

    def worker(
        self,
        slots: int,
        name: str = "w1",
        lifeline: str = "",
        length: int | None = None,
        version: int = RECORD_VERSION,
        marks: ReasoningMarks | None = None,
        *,
        divides: bool = False,
    ) -> None:
        self.leases.heartbeat(
            WorkerInfo(name, "m", "echo", slots, 0, 0.0, length, lifeline, version, marks, divides)
        )

    def claim(self, job_id: str, lease_token: str = "t", worker: str = "w1") -> Claim:
        claim = self.leases.claim(job_id, lease_token, worker, "echo:m", free_slots=8, held=0)
        assert isinstance(claim, Claim)
        return claim

    def complete(self, claim: Claim, base: int | None = None) -> None:
        """base: the length of the log, if tokens were written since the claim."""
        base = len(claim.entries) if base is None else base
        flush(
            self.leases, [write_of(claim.job_id, claim.lease_token, base, 1, (), Outcome(Status.COMPLETED))]
        )

    def make_due(self, index: str, job_id: str) -> None:
        self.redis.zadd(index, {job_id: 0})
        self.reap()

    def reap(self) -> None:
        self.redis.set(keys.PREFIX + "reaped_at", str(self.now()))
        self.reaper.reap()

    def now(self) -> float:
        """Returns Redis' time."""
        seconds, micros = self.redis.time()
        return float(seconds + micros / 1e6)

    def line(self) -> list[str]:
        """Returns the jobs of all widths that wait for any engine pool of the model, in their order."""
        tags: dict[str, float] = {}
        for width in range(1, 9):
            tags |= self.redis.zrange(keys.line("any:m", width), 0, -1, withscores=True)
        return sorted(tags, key=lambda job_id: (tags[job_id], job_id))

    def slots_taken(self) -> dict[str, int]:
        """Returns worker -> the slots of it that are taken."""
        return {worker: int(slots) for worker, slots in self.redis.hgetall(keys.slots("echo:m")).items()}
