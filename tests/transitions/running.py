"""Jobs that a worker has claimed and writes for, in tests that play the worker."""

from __future__ import annotations

from typing import Any

from harness.writing import flush, write_of
from tasks.job import PREEMPTED, Status
from tasks.leases import Claim, Outcome, WriteStatus
from tasks.log import TokenEntry
from tests.transitions.harness import Harness

MAX_PREEMPTIONS = 16
"""As in shared/preemption.lua."""


class Running:
    """A claimed job and the worker that writes for it."""

    def __init__(self, harness: Harness, job_id: str, lease_token: str = "", worker: str = "w1") -> None:
        self._harness = harness
        self.id = job_id
        self.claim: Claim = harness.claim(job_id, lease_token or f"t-{job_id}", worker)

    def write(self, tokens: int = 1, outcome: Outcome | None = None) -> WriteStatus | None:
        """Writes tokens, an entry for each, and returns the flush's answer."""
        base = len(self._harness.store.read_log(self.id))
        entries = [TokenEntry(0, (base + i,), f"{base + i} ") for i in range(tokens)]
        write = write_of(self.id, self.claim.lease_token, base, 1, entries, outcome)
        return flush(self._harness.leases, [write])[0]

    def complete(self) -> None:
        assert self.write(0, Outcome(Status.COMPLETED)) is WriteStatus.ENDED

    def is_asked(self) -> bool:
        """Returns whether a flush asks the worker for the job's slots."""
        return self.write(0) is WriteStatus.PREEMPT

    def give_back(self) -> None:
        assert self.is_asked()
        assert self._harness.leases.release([(self.id, self.claim.lease_token)], PREEMPTED) == 1


def running(harness: Harness, tokens: int = 1, worker: str = "w1", **options: Any) -> Running:
    """Submits a job, which a worker claims and writes tokens for."""
    job = Running(harness, harness.submit(**options), worker=worker)
    if tokens:
        assert job.write(tokens) is None
    return job


def running_low(harness: Harness, tokens: int = 1, worker: str = "w1", **options: Any) -> Running:
    return running(harness, tokens, worker, priority="low", **options)


def asked(jobs: list[Running]) -> list[Running]:
    return [job for job in jobs if job.is_asked()]
