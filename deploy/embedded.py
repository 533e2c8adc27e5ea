"""DATA_DIR and its embedded Redis: one `serve` at a time, with its own port and password."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from tasks.errors import SettingsError

URL_FILE = "redis.url"
"""The file in which `make flower` and the next start find the running Redis."""

ORPHAN_SECONDS = 30.0
"""How long the Redis of an earlier run may take to write its data and end."""

CONFIG = """\
port {port}
bind 127.0.0.1
requirepass {password}
dir "{folder}"
appendonly yes
appendfsync everysec
save ""
maxmemory {maxmemory}
maxmemory-policy noeviction
"""


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Creates and locks `folder`. The lock ends with the process, however that ends. Raises SettingsError."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "serve.lock").open("w")
    except OSError as error:
        raise SettingsError(f"DATA_DIR={folder}: cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(
                f"DATA_DIR={folder}: is in use by another server; set another DATA_DIR"
            ) from None
        yield folder.resolve()


def configure(folder: Path, maxmemory: str) -> str:
    """Writes redis.conf with a free port and a new password; returns the URL. Raises SettingsError."""
    _end_orphan(folder)
    port, password = _free_port(), secrets.token_urlsafe(24)
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    config = CONFIG.format(port=port, password=password, folder=folder, maxmemory=maxmemory)
    _write_private(folder / "redis.conf", config)
    _write_private(folder / URL_FILE, url)
    return url


def _end_orphan(folder: Path) -> None:
    """Stops a Redis that outlived its `serve`: it would still write to the files that the next one opens."""
    try:
        url = (folder / URL_FILE).read_text()
    except FileNotFoundError:
        return
    deadline = time.monotonic() + ORPHAN_SECONDS
    with Redis.from_url(url, socket_timeout=5) as orphan:
        while _answers(orphan):
            if time.monotonic() > deadline:
                raise SettingsError(f"DATA_DIR={folder}: a Redis of an earlier run uses it and does not end")
            orphan.shutdown(nosave=True)


def _answers(redis: Redis) -> bool:
    """Whether a Redis accepts the password of this DATA_DIR; another Redis may use the port by now."""
    try:
        return bool(redis.ping())
    except RedisError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_private(path: Path, text: str) -> None:
    """Writes a file that nobody else can read at any moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
