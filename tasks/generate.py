"""The one Celery task. Its body is the last step of an attempt, not the attempt.

The engine decodes many jobs at once, so no task body can hold one of them while it runs. `worker.pool`
takes the task, lets the engine work, and runs this body through Celery's own tracer when the outcome is
there: signals, events and states are then Celery's.
"""

from __future__ import annotations

from celery import Celery

from tasks.app import TASK
from tasks.backend import JobFailedError
from tasks.leases import Finish

outcomes: dict[str, Finish] = {}
"""How jobs ended whose task body runs next, by job id; only Celery's thread touches it."""


def register(app: Celery) -> None:
    """Give a worker's app its task."""

    # throws: a failed job is no fault of the worker, its log shows a line and no traceback.
    @app.task(name=TASK, throws=(JobFailedError,))
    def generate(job_id: str) -> str:
        finish = outcomes.pop(job_id)
        if finish.error:
            raise JobFailedError(f"{finish.error.code}: {finish.error.message}")
        return finish.status
