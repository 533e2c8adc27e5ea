"""The shared contract of web, worker and other Python processes: settings, jobs, store, Celery app.

Imports neither Flask nor torch.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tasks.app import JobApp
from tasks.connection import connect
from tasks.request import parse_request
from tasks.settings import ANONYMOUS, get_settings
from tasks.store import Store

__all__ = ["get_app", "get_store", "submit"]


@cache
def get_app() -> JobApp:
    """The process' Celery app, by the environment's settings. Raises SettingsError."""
    return JobApp(get_settings())


@cache
def get_store() -> Store:
    """The process' store, by the environment's settings. Raises SettingsError."""
    return Store(connect(get_settings()), get_settings(), get_app().ring)


def submit(
    prompt: str | None = None,
    *,
    owner: str = ANONYMOUS,
    idempotency_key: str | None = None,
    **options: Any,
) -> str:
    """Submit a job from any Python process: its id, good for `celery.result.AsyncResult`.

    `options` are the other fields of the submit body. Raises InvalidRequestError, QueueFullError,
    IdempotencyConflictError, SettingsError and redis.exceptions.RedisError.
    """
    body = options if prompt is None else {"prompt": prompt, **options}
    return get_store().submit(parse_request(body), owner, idempotency_key).job_id
