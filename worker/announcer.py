"""Announces this worker in Redis: its model, its slots and its speed."""

from __future__ import annotations

import time

from tasks import keys
from tasks.leases import Leases, WorkerInfo
from tasks.settings import Settings
from worker.engine.base import Engine

SPEED_SMOOTHING = 0.3
"""The weight of the last period in the announced tokens per second, which cover the last few seconds."""


class Announcer:
    """Sends heartbeats, and measures the speed between them."""

    def __init__(
        self, engine: Engine, leases: Leases, settings: Settings, worker: str, lifeline: str
    ) -> None:
        self.worker = worker
        self.engine_pool = keys.engine_pool(engine.model, settings.engine)
        self._engine = engine
        self._engine_kind = settings.engine
        self._leases = leases
        self._lifeline = lifeline
        self._period = settings.lease_seconds / keys.HEARTBEATS_PER_LEASE
        self._last = time.monotonic()
        self._tokens = 0
        self._speed = 0.0
        self.due_at = self._last
        """The monotonic time of the next heartbeat."""

    def count(self, tokens: int) -> None:
        self._tokens += tokens

    def beat(self, slots: int, running: int) -> None:
        """Sends a heartbeat. Raises RedisError.

        slots: how many dispatch may fill, 0 while the worker drains. running: how many are taken.
        """
        now = time.monotonic()
        self._leases.heartbeat(self._info(slots, running, self._smoothed_speed(now)))
        self._speed = self._smoothed_speed(now)
        self._last, self._tokens = now, 0
        self.due_at = now + self._period

    def deregister(self) -> None:
        """Removes this worker from Redis. Raises RedisError."""
        self._leases.deregister(self._info(0, 0, 0.0))

    def _smoothed_speed(self, now: float) -> float:
        elapsed = now - self._last
        current = self._tokens / elapsed if elapsed > 0 else 0.0
        return self._speed + SPEED_SMOOTHING * (current - self._speed)

    def _info(self, slots: int, running: int, speed: float) -> WorkerInfo:
        engine = self._engine
        return WorkerInfo(
            self.worker,
            engine.model,
            self._engine_kind,
            slots,
            running,
            speed,
            engine.max_model_len,
            self._lifeline,
            reasoning_marks=engine.reasoning_marks,
            divides_outputs=engine.divides_outputs,
        )
