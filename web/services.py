"""The objects that views work with: one set per process, kept on the Flask app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from flask import Flask, current_app, request

from tasks.batches import Batches
from tasks.files import Files
from tasks.settings import Settings
from tasks.store import Store
from web.caps import StreamCap
from web.relay.hub import Hub
from web.relay.job_log import JobLog

if TYPE_CHECKING:
    from web.openai.batches.feeder import BatchFeeder  # It imports modules that use `services`.

_EXTENSION = "tokenrelay"


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    store: Store
    log: JobLog
    hub: Hub
    streams: StreamCap
    files: Files
    batches: Batches
    feeder: BatchFeeder


def install(app: Flask, services: Services) -> None:
    app.extensions[_EXTENSION] = services


def services_of(app: Flask) -> Services:
    return cast(Services, app.extensions[_EXTENSION])


def services() -> Services:
    """Returns the services of the request's app."""
    return services_of(current_app)


def base_url() -> str:
    """Returns scheme and host as the request's client wrote them, without a final slash."""
    return request.root_url.rstrip("/")
