"""Celery's consumer, which reconnects after every loss of Redis."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer
from kombu.exceptions import OperationalError


class ReconnectingConsumer(Consumer):
    """`app.conf.worker_consumer`. It differs from Celery's in two ways.

    Celery 5.7 takes only the transport's own errors for a lost connection. kombu also wraps them in its
    OperationalError, for example while the consumer reconnects; then Celery's consumer lets it pass, and the
    worker ends.

    Also, there is no mingle. It waits a second to learn from other workers which tasks are revoked; here the
    records say which jobs are cancelled.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["worker_options"] = {**(kwargs.get("worker_options") or {}), "without_mingle": True}
        super().__init__(*args, **kwargs)
        self.connection_errors: tuple[type[Exception], ...] = (*self.connection_errors, OperationalError)
