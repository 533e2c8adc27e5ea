"""The shared contract of web, worker and other Python processes: settings, jobs, store, Celery app.

Imports neither Flask nor torch.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, cast

from celery import Celery, _state
from celery.local import Proxy

from tasks.app import JobApp
from tasks.errors import SettingsError
from tasks.request import parse_request
from tasks.settings import ANONYMOUS, get_settings
from tasks.store import Store

__all__ = ["get_app", "get_store", "submit"]


logger = logging.getLogger(__name__)


@cache
def get_app() -> JobApp:
    """Returns the process' Celery app, made from the environment's settings. Raises SettingsError."""
    return JobApp(get_settings())


def get_store() -> Store:
    """Returns the process' store, made from the environment's settings. Raises SettingsError."""
    return get_app().store


def submit(
    prompt: str | None = None,
    *,
    owner: str = ANONYMOUS,
    idempotency_key: str | None = None,
    **options: Any,
) -> str:
    """Submits a job from any Python process. Returns its id, which `celery.result.AsyncResult` takes.

    `options` are the other fields of the submit body. Raises InvalidRequestError (also where the settings of
    this process name a model that no worker announced, and workers announced others), QueueFullError,
    IdempotencyConflictError, SettingsError and redis.exceptions.RedisError.
    """
    body = options if prompt is None else {"prompt": prompt, **options}
    request = parse_request(body)
    return get_store().submit(request, owner, idempotency_key, trusts_settings=False).job_id


def _default_app() -> Celery:
    """Returns `get_app()`, or an app without a result backend if the settings are invalid.

    It must not raise: some libraries, vLLM among them, look at all attributes of all modules, and some of
    Celery's attributes lead here.
    """
    try:
        return get_app()
    except SettingsError as error:
        return _app_without_settings(error.detail)


@cache
def _app_without_settings(reason: str) -> Celery:
    """Returns what Celery itself makes where there is no app."""
    logger.warning("Celery's default app has no result backend: %s", reason)
    return Celery("default", fixups=[], set_as_current=False)


def _offer_default_app() -> None:
    """Makes `get_app` Celery's default for the whole process, unless the process has chosen another app.

    `AsyncResult(job_id)` asks for the current app, which Celery keeps for each thread, and then for the
    default. The app is made when it is first used, so a process can import this package without having
    settings.
    """
    default = _state.default_app  # type: ignore[attr-defined]
    is_fallback = default is not None and default.main == "default" and not default.set_as_current
    if default is None or is_fallback:
        _state.set_default_app(cast(Celery, Proxy(_default_app)))


_offer_default_app()
