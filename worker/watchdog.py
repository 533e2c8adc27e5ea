"""Tells an engine that hangs from a process that was stopped."""

from __future__ import annotations

import time
from typing import Protocol

from tasks.settings import Settings


class Stepping(Protocol):
    """Work in steps, on a thread of its own."""

    @property
    def step_number(self) -> int | None:
        """Which step is under way; None between steps."""


class Watchdog:
    """Adds up how long one step of the engine, or of other work, has been seen running.

    From one look to the next at most a lease's time counts: looks come some times per lease, and where one
    comes later the process was paused (SIGSTOP, a frozen container), and its engine with it.
    """

    def __init__(self, work: Stepping, settings: Settings) -> None:
        self._work = work
        self._timeout_seconds = settings.step_timeout_seconds
        self._longest_gap = settings.lease_seconds
        self._step: int | None = None
        self._seconds = 0.0
        self._looked_at = time.monotonic()

    def is_overdue(self) -> bool:
        """Look: has the step under way been running for longer than STEP_TIMEOUT_SECONDS?"""
        now, step = time.monotonic(), self._work.step_number
        if step is not None and step == self._step:
            self._seconds += min(now - self._looked_at, self._longest_gap)
        else:
            self._step, self._seconds = step, 0.0
        self._looked_at = now
        return self._seconds > self._timeout_seconds
