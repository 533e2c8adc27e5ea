"""A flusher for tests, which play Celery."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks.connection import connect
from tasks.job import Job
from tasks.leases import Leases, Outcome
from tasks.request import parse_request
from tasks.scripts import Offer, Scripts
from tasks.settings import Settings
from tasks.store import Store
from worker.engine.base import Engine
from worker.engine.echo import EchoEngine
from worker.flusher import Flusher

LONG = {"max_tokens": 3000}


class CeleryTask:
    """A task as Celery's pool holds it. `outcome` is set when the worker has finished it."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.was_accepted = False
        self.outcome: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()

    def accepted(self) -> None:
        self.was_accepted = True

    def ended(self, outcome: Outcome | None) -> None:
        self.outcome.put(outcome)

    def wait(self) -> Outcome | None:
        return self.outcome.get(timeout=TIMEOUT_SECONDS)


class SureDelivery:
    """A delivery monitor for tests, which lose no messages."""

    has_forgotten = False

    def send_probe(self) -> None: ...

    def received(self) -> None: ...

    def forget_probes(self) -> None:
        self.has_forgotten = True

    def is_overdue(self) -> bool:
        return False


class Worker:
    """A flusher. With `deliver` its offers are delivered at once; otherwise the test calls `send`."""

    def __init__(self, settings: Settings, deliver: bool = True, engine: Engine | None = None) -> None:
        self.redis: Any = connect(settings)
        self.tasks: dict[str, CeleryTask] = {}
        self.deliver = deliver
        self.store = Store(Scripts(self.redis, settings, self.send_offers))
        self._of_leases: Any = connect(settings)
        leases = Leases(Scripts(self._of_leases, settings, self.send_offers))
        engine = engine or EchoEngine(settings)
        self.delivery = SureDelivery()
        self.flusher = Flusher(engine, leases, settings, "w1", self.delivery)

    def send_offers(self, offers: Sequence[Offer]) -> None:
        for _, job_id in offers:
            task = self.tasks.get(job_id)
            # A job that was claimed comes back for another attempt. Otherwise its offer was sent again.
            if self.deliver and (task is None or task.was_accepted):
                self.send(job_id)

    def send(self, job_id: str) -> CeleryTask:
        task = self.tasks[job_id] = CeleryTask(job_id)
        self.flusher.submit(task)
        return task

    def submit(self, **body: Any) -> str:
        return self.store.submit(parse_request({"prompt": "a b", **body}), "ada").job_id

    def wait(self, job_id: str) -> Outcome | None:
        return eventually(lambda: self.tasks.get(job_id)).wait()  # type: ignore[union-attr]

    def started(self, job_id: str) -> Job:
        eventually(lambda: self.store.get(job_id).completion_tokens)
        return self.store.get(job_id)

    def end(self) -> None:
        self.flusher.drain(0)
        eventually(lambda: not self.flusher.is_alive())
        for redis in (self.redis, self._of_leases):
            # A traceback may keep them alive, and then nothing else would close them in time.
            redis.connection_pool.disconnect()
