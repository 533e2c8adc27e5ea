"""Checks before the start: each failure is reported in one line."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import RedisError

from tasks.durability import refuse_eviction
from tasks.errors import SettingsError
from tasks.settings import EngineKind, Settings, model_folder

BUNDLED_MODEL = Path(__file__).parent.parent / "worker" / "models" / "bundled"
CONNECT_SECONDS = 5.0
MISSPELT_FROM = 0.75
"""How similar a name must be to a setting's, from 0 to 1. PROT is, SECONDS is not to DRAIN_SECONDS."""


def check(settings: Settings) -> None:
    """Runs all checks. Raises SettingsError."""
    check_port(settings.host, settings.port)
    if settings.engine is not EngineKind.ECHO:
        check_model(settings.model_id)
    if settings.redis_url is not None:
        check_redis(settings.redis_url)


def check_names(names: Sequence[str]) -> None:
    """Refuses a name that looks like a misspelt setting.

    Other names may be variables of the libraries that we use, such as HF_HOME. Raises SettingsError.
    """
    settings = [name.upper() for name in Settings.model_fields]
    for name in names:
        similar = get_close_matches(name.upper(), settings, n=1, cutoff=MISSPELT_FROM)
        if similar and name.upper() not in settings:
            raise SettingsError(f"{name}: there is no such setting; did you mean {similar[0]}?")


def check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As gunicorn does, so that lingering connections of an earlier run do no harm.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        remedy = "; set another PORT" if error.errno == errno.EADDRINUSE else ""
        message = f"PORT={port}: cannot listen on HOST={host}: {error.strerror}{remedy}"
        raise SettingsError(message) from None


def check_model(model_id: str) -> None:
    """Checks that a local model exists. For a model on the hub, only the worker can find that out."""
    if model_id == "bundled":
        if not (BUNDLED_MODEL / "config.json").is_file():
            raise SettingsError(f"MODEL_ID=bundled: there is no model in {BUNDLED_MODEL}")
        return
    folder = model_folder(model_id)
    if folder is not None and not (folder / "config.json").is_file():
        raise SettingsError(f"MODEL_ID={model_id}: there is no model in this folder (no config.json)")


def check_redis(url: str) -> None:
    try:
        with Redis.from_url(
            url, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=CONNECT_SECONDS
        ) as redis:
            redis.ping()
            refuse_eviction(redis)
    except (RedisError, ValueError) as error:
        # The URL may hold a password.
        place = urlsplit(url).netloc.rpartition("@")[2]
        raise SettingsError(f"REDIS_URL: the Redis at {place} cannot be used: {error}") from None
