"""The one Celery task. Its body is only the last step of an attempt.

The engine decodes many jobs at once, so no task body can run for as long as its job does. The worker's Celery
pool takes the task and lets the engine work. Once the outcome is known, it runs this body through Celery's
own tracer, so signals, events and states are Celery's.
"""

from __future__ import annotations

from celery import Celery
from celery.worker.request import Request

from tasks.app import TASK
from tasks.backend import JobFailedError
from tasks.leases import Outcome

outcomes: dict[str, Outcome] = {}
"""The outcomes of jobs whose task body runs next, by job id. Only Celery's thread uses it."""


class OfferRequest(Request):
    """A task message that is never acknowledged; its queue gives messages away for good (`no_ack`).

    Celery would acknowledge on the connection that brought the message. If the consumer had to reconnect to
    Redis since, kombu 5.7 raises an AttributeError, which ends a Celery 5.7 worker.
    """

    def acknowledge(self) -> None:
        self.acknowledged = True

    def reject(self, requeue: bool = False) -> None:  # noqa: ARG002
        self.acknowledged = True


def register(app: Celery) -> None:
    """Gives a worker's app its task."""

    # throws: a failed job is not the worker's fault, so the log shows one line and no traceback.
    @app.task(name=TASK, throws=(JobFailedError,), Request=OfferRequest)
    def generate(job_id: str) -> str:
        outcome = outcomes.pop(job_id)
        if outcome.error:
            raise JobFailedError(f"{outcome.error.code}: {outcome.error.message}")
        return outcome.status
