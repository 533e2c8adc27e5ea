"""Celery's result backend. It reads the record, so AsyncResult always agrees with it, and writes nothing."""

from __future__ import annotations

from typing import Any

from celery import states
from celery.backends.base import BaseBackend
from celery.exceptions import TaskRevokedError

from tasks.errors import JobNotFoundError
from tasks.job import Job, Status

STATES = {
    Status.QUEUED: states.PENDING,
    Status.IN_PROGRESS: states.STARTED,
    Status.COMPLETED: states.SUCCESS,
    Status.FAILED: states.FAILURE,
    Status.CANCELLED: states.REVOKED,
    Status.EXPIRED: states.REVOKED,
}


class JobFailedError(Exception):
    """What AsyncResult.get() raises for a job that failed: code and message of the job's error."""


class RecordBackend(BaseBackend):
    """Makes `AsyncResult(job_id).state` from the record; `.get()` returns the job object of the API.

    It works with a `tasks.app.JobApp` only.
    """

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._store = app.store

    def _store_result(self, _task_id: str, result: Any, _state: str, *_: Any, **__: Any) -> Any:
        """Stores nothing, because the record already says how the job ended."""
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """Returns Celery's view of a job. An unknown id is PENDING, as everywhere in Celery."""
        try:
            job = self._store.get(task_id)
        except JobNotFoundError:
            return {"task_id": task_id, "status": states.PENDING, "result": None}
        return {
            "task_id": task_id,
            "status": STATES[job.status],
            "result": _result(job),
            "traceback": None,
            "children": [],
            "date_done": job.to_dict()["ended_at"],
        }

    def _forget(self, _task_id: str) -> None:
        raise NotImplementedError("a job is deleted through the API: DELETE /v1/jobs/ID")


def _result(job: Job) -> Any:
    if job.error and job.status is Status.FAILED:
        return JobFailedError(f"{job.error.code}: {job.error.message}")
    if job.status in (Status.CANCELLED, Status.EXPIRED):
        return TaskRevokedError(f"the job was {job.status}")
    return job.to_dict()
