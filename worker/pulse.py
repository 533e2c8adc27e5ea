"""Whether Celery still hands out messages: the worker sends some to itself and waits to hear them.

A Celery worker that lost its broker for a while may come back deaf: alive, answering pings, taking nothing
(celery issues 8030 and 10205, among others). No job would wait for ever, other workers take them, but this
one's GPU would idle until somebody looks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from kombu.exceptions import OperationalError

from tasks.app import JobApp, celery_queue

MESSAGE = "tokenrelay.pulse"
"""In place of a task's name. Celery's consumer looks up who takes it, as it does for every task."""

LEAST_BEATS = 3
"""A message or two may be lost with a Redis that restarts."""

logger = logging.getLogger(__name__)


class Pulse:
    """One worker's messages to itself, through the queue that brings its tasks."""

    def __init__(
        self,
        app: JobApp,
        worker: str,
        patience_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._queue = celery_queue(worker)
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._unheard = 0
        self._waits_since = 0.0

    def beat(self) -> None:
        """Send one more message. A Redis that is away says nothing about Celery."""
        try:
            self._send()
        except OperationalError as error:
            logger.warning("could not send a pulse: %s", error)
            return
        if not self._unheard:
            self._waits_since = self._clock()
        self._unheard += 1

    def heard(self) -> None:
        """A message came through. Also to be called while the worker is full and takes none."""
        self._unheard = 0

    def is_lost(self) -> bool:
        """Whether Celery has been deaf for longer than patience."""
        waited = self._clock() - self._waits_since
        return self._unheard >= LEAST_BEATS and waited > self._patience_seconds

    def listen(self, consumer: Any) -> None:
        """Have Celery's consumer bring tasks and pulses. It forgets with its connection: call it again."""
        consumer.strategies[MESSAGE] = lambda *_: self.heard()
        consumer.task_consumer.add_queue(self._queue)
        consumer.task_consumer.consume()

    def _send(self) -> None:
        with self._app.producer_or_acquire() as producer:
            producer.publish({}, routing_key=self._queue.name, headers={"task": MESSAGE}, retry=False)


class PulseStep(bootsteps.StartStopStep):
    """Started with each new connection of Celery's consumer."""

    requires = ("celery.worker.consumer:Tasks",)

    def start(self, consumer: Any) -> None:
        consumer.pool.pulse.listen(consumer)
