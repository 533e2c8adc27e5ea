"""Checks whether Celery still delivers messages: the worker sends some to itself and waits for them.

A Celery worker that lost its broker for a while may come back without consuming anything: it is alive and
answers pings (celery issues 8030 and 10205, among others). No job would wait forever, since other workers
take them, but this worker's GPU would idle until somebody looks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks.app import JobApp, celery_queue

MESSAGE = "tokenrelay.pulse"
"""The probes' task name. Celery's consumer looks up its handler by this name, as it does for every task.

The name must not change, because a worker may find messages of an earlier release in its queue.
"""

LEAST_PROBES = 3
"""A Redis that restarts may lose a message or two."""

logger = logging.getLogger(__name__)


class DeliveryProbe:
    """Sends probes to this worker itself, through the queue that brings its tasks."""

    def __init__(
        self,
        app: JobApp,
        worker: str,
        timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._queue = celery_queue(worker)
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._missing = 0
        """Probes sent since the last message was received."""
        self._missing_since = 0.0

    def send_probe(self) -> None:
        """Sends one more message. The time without Redis does not count: Celery is not at fault."""
        try:
            self._send()
        except (OperationalError, RedisError) as error:
            logger.warning("could not send a probe of Celery's delivery: %s", error)
            self.forget_probes()
            return
        if not self._missing:
            self._missing_since = self._clock()
        self._missing += 1

    def received(self) -> None:
        """Notes that a probe was delivered. Call it too while the worker is full and takes no messages."""
        self._missing = 0

    def forget_probes(self) -> None:
        """Redis could not be reached. Celery has to reconnect before it can deliver what was sent so far."""
        self._missing = 0

    def is_overdue(self) -> bool:
        """Returns whether Celery has delivered nothing for longer than the time-out."""
        waited = self._clock() - self._missing_since
        return self._missing >= LEAST_PROBES and waited > self._timeout_seconds

    def listen(self, consumer: Any) -> None:
        """Makes Celery's consumer take tasks and probes. Call it again after the consumer has reconnected."""
        consumer.strategies[MESSAGE] = lambda *_: self.received()
        consumer.task_consumer.add_queue(self._queue)
        consumer.task_consumer.consume()

    def _send(self) -> None:
        with self._app.producer_or_acquire() as producer:
            producer.publish({}, routing_key=self._queue.name, headers={"task": MESSAGE}, retry=False)


class DeliveryProbeStep(bootsteps.StartStopStep):
    """Celery starts this step with each new connection of its consumer."""

    requires = ("celery.worker.consumer:Tasks",)

    def start(self, consumer: Any) -> None:
        consumer.pool.probe.listen(consumer)
