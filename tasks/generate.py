"""The one Celery task. Its body is the last step of an attempt, not the attempt.

The engine decodes many jobs at once, so no task body can hold one of them while it runs. `worker.pool`
takes the task, lets the engine work, and runs this body through Celery's own tracer when the outcome is
there: signals, events and states are then Celery's.
"""

from __future__ import annotations

from celery import Celery
from celery.worker.request import Request

from tasks.app import TASK
from tasks.backend import JobFailedError
from tasks.leases import Outcome

outcomes: dict[str, Outcome] = {}
"""How jobs ended whose task body runs next, by job id; only Celery's thread touches it."""


class OfferRequest(Request):
    """A task message that is never acknowledged; its queue hands messages out for good (`no_ack`).

    An acknowledgement on the connection that brought the message, after Redis was away and the consumer has
    another one, raises an AttributeError in kombu 5.7 that ends a Celery 5.7 worker.
    """

    def acknowledge(self) -> None:
        self.acknowledged = True

    def reject(self, requeue: bool = False) -> None:  # noqa: ARG002
        self.acknowledged = True


def register(app: Celery) -> None:
    """Give a worker's app its task."""

    # throws: a failed job is no fault of the worker, its log shows a line and no traceback.
    @app.task(name=TASK, throws=(JobFailedError,), Request=OfferRequest)
    def generate(job_id: str) -> str:
        outcome = outcomes.pop(job_id)
        if outcome.error:
            raise JobFailedError(f"{outcome.error.code}: {outcome.error.message}")
        return outcome.status
