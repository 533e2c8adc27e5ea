"""The worker's app with a consumer that cannot start once, as when Redis dies while it reconnects."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from kombu.exceptions import OperationalError

from worker.app import app

__all__ = ["app"]


class FailOnce(bootsteps.StartStopStep):
    requires = ("celery.worker.consumer:Tasks",)
    has_failed = False

    def start(self, parent: Any) -> None:  # noqa: ARG002
        if not FailOnce.has_failed:
            FailOnce.has_failed = True
            raise OperationalError("Connection closed by server.")


app.steps["consumer"].add(FailOnce)
