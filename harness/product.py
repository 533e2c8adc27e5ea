"""The whole product on the echo engine: gunicorn, a Celery worker and Redis, all real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from harness.redis_server import free_port, start_redis
from harness.waiting import TIMEOUT_SECONDS, eventually
from harness.workers import ROOT, start_workers

STEP_SECONDS = 0.01


@dataclass
class Web:
    """gunicorn on a port that stays the same when it is started again."""

    redis_url: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    root: Path = ROOT
    """The checkout that it runs."""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of gunicorn's master."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        own = {"REDIS_URL": self.redis_url, "PORT": str(self.port), "ENGINE": "echo", **self.environment}
        with (self.folder / f"web-{self.port}.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "web/gunicorn.conf.py", "web:create_app()"],
                cwd=self.root,
                env=os.environ | own,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        eventually(self.is_ready)

    @contextmanager
    def started(self) -> Iterator[Web]:
        """Runs it inside the context. A process that is left would fail a later test."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """Kills gunicorn and its workers, which can neither close streams nor finish calls."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> None:
        """Tells gunicorn to end. It closes streams, and calls in progress may finish."""
        assert self._process is not None
        self._process.terminate()

    def stop(self) -> None:
        self.terminate()
        assert self._process is not None
        self._process.wait(TIMEOUT_SECONDS)


@contextmanager
def running(folder: Path, **environment: str) -> Iterator[Web]:
    """Runs the product, ready for jobs. environment: further variables of web and worker."""
    redis, redis_url = start_redis(folder)
    echo = {"ENGINE": "echo", "ECHO_STEP_SECONDS": str(STEP_SECONDS), "LEASE_SECONDS": "1", **environment}
    web = Web(redis_url, folder, environment)
    try:
        with start_workers("echo", folder=folder, REDIS_URL=redis_url, **echo), web.started():
            yield web
    finally:
        redis.kill()
        redis.wait()
