"""Tokenrelay for other projects: `from tokenrelay import Client, submit`.

The product's own packages have short names (`tasks`, `web`, `client`, …) that collide with other people's
modules, so the installed package holds them as `tokenrelay.tasks` and so on (see `deploy/wheel.py`). Names
are imported when they are first used, because each needs only a part of the dependencies.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deploy.places import PREFIX

if TYPE_CHECKING:
    from client import (
        ApiError,
        Client,
        ClientError,
        ConflictError,
        Event,
        InvalidRequestError,
        Job,
        JobPage,
        JobSummary,
        NotFoundError,
        SummaryPage,
        UnauthorizedError,
        UnavailableError,
        UnreachableError,
        WaitTimeoutError,
    )
    from tasks import get_app, submit

__version__ = "0.1.0"

__all__ = [
    "ApiError",
    "Client",
    "ClientError",
    "ConflictError",
    "Event",
    "InvalidRequestError",
    "Job",
    "JobPage",
    "JobSummary",
    "NotFoundError",
    "SummaryPage",
    "UnauthorizedError",
    "UnavailableError",
    "UnreachableError",
    "WaitTimeoutError",
    "get_app",
    "submit",
]

INSTALL = "run pip install '.[{}]' in a checkout of Tokenrelay"
"""How an extra is installed: the package is on no index."""

QUEUE_NAMES = {"get_app", "submit"}
"""What needs Celery and Redis. The other names are the HTTP client's."""


def __getattr__(name: str) -> Any:
    """Imports a name of `__all__`. Raises AttributeError, and ImportError that names the missing extra."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    extra = "tasks" if name in QUEUE_NAMES else "client"
    try:
        origin = import_module(f"{PREFIX}{extra}")
    except ModuleNotFoundError as error:
        raise ImportError(f"tokenrelay.{name} needs {error.name}: {INSTALL.format(extra)}") from error
    return getattr(origin, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
