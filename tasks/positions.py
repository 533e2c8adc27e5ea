"""Where waiting jobs stand: their position, the estimated time until they start, and why they wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from tasks.job import PREEMPTED, Job, Status


@dataclass(frozen=True, slots=True)
class Position:
    """A waiting job's place."""

    ahead: int
    """The number of jobs that come before it; -1 if it is on offer to a worker."""
    live_slots: int
    """The slots of all live workers that may take it."""
    widest: int
    """The slots of the widest one of these workers."""
    slot_seconds: float | None
    """How long a job of its model takes a slot, on average; None while unknown."""
    is_too_new: bool
    """Workers live, but their releases do not understand its record."""
    is_settling: bool
    """Redis has just come back, and nobody claims jobs yet."""

    @classmethod
    def parse(cls, standing: Sequence[Any], *, is_settling: bool = False) -> Self | None:
        """Returns a position from what `standing_of` answers (lua/shared/standing.lua).

        None for a job that does not wait.
        """
        if not standing:
            return None
        ahead, live_slots, widest, slot_seconds, is_too_new = standing
        seconds = float(slot_seconds) if slot_seconds else None
        return cls(ahead, live_slots, widest, seconds, bool(is_too_new), is_settling)

    @property
    def queue_position(self) -> int:
        return max(self.ahead, 0)

    def applied_to(self, job: Job) -> Job:
        """Returns the job with its position. Between two attempts a job has no position, only a reason."""
        n = job.request["n"]
        reason = self._reason(n)
        if job.attempts and job.attempts[-1].reason == PREEMPTED:
            reason = f"it gave its slots to a job of higher priority; {reason}"
        if job.status is not Status.QUEUED:
            return replace(job, reason=reason)
        eta = None
        if self.slot_seconds is not None and self.live_slots and n <= self.widest:
            eta = round((self.ahead + 1) * self.slot_seconds / self.live_slots, 3)
        return replace(job, queue_position=self.queue_position, eta_seconds=eta, reason=reason)

    def _reason(self, n: int) -> str:
        if self.is_too_new:
            return "the workers of this model are of an earlier release, which cannot run this request"
        if not self.live_slots:
            return "no worker serves this model at present"
        if n > self.widest:
            return f"no worker has the {n} slots that it takes at present; the widest has {self.widest}"
        if self.ahead < 0 and self.is_settling:
            return "Redis was restarted a moment ago; a worker starts it within a few seconds"
        if self.ahead < 0:
            return "a worker is about to start it"
        if self.ahead == 0:
            return "next in line"
        return f"{self.ahead} job{'s' if self.ahead > 1 else ''} ahead"
