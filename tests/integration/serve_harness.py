"""`make serve` as a process of its own, without make."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from harness.redis_server import free_port
from harness.waiting import TIMEOUT_SECONDS, eventually
from harness.workers import ROOT

# Settings of the developer's shell must not affect the tests.
OWN_VARIABLES = {"ENGINE": "echo", "LEASE_SECONDS": "1", "DRAIN_SECONDS": "0", "HOST": "127.0.0.1"}
FOREIGN_VARIABLES = (
    "REDIS_URL",
    "API_KEYS",
    "MODEL_ID",
    "SERVED_MODEL_NAME",
    "MAX_NUM_SEQS",
    "MAX_MODEL_LEN",
    "WEB_CONCURRENCY",
)


@dataclass
class Serve:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text()

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.output
        return self.answers("/health/ready")

    def answers(self, path: str) -> bool:
        try:
            return httpx.get(self.url + path).status_code == 200
        except httpx.TransportError:
            return False

    def has_announced(self) -> bool:
        assert self.process.poll() is None, self.output
        return "\nready: " in self.output

    def pid(self, name: str) -> int:
        """Returns the process id of the latest process with this name."""
        return int(re.findall(rf"spawned: '{name}' with pid (\d+)", self.output)[-1])

    def all_pids(self) -> list[int]:
        """Returns the process ids of all processes that ever ran, gunicorn's workers included."""
        return [int(pid) for pid in re.findall(r"with pid:? (\d+)", self.output)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_SECONDS)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def none_alive(pids: list[int]) -> bool:
    return not any(is_alive(pid) for pid in pids)


def launch(folder: Path, variables: dict[str, str], output: int | None = None) -> Serve:
    """Starts it without waiting. folder: its DATA_DIR. output: a descriptor to write to instead of a log."""
    port = variables.get("PORT") or str(free_port())
    inherited = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    # As the Makefile sets it, so that no process outlives this one.
    own = {"MAKE_PID": str(os.getpid()), "DATA_DIR": str(folder), "PORT": port}
    log = folder.with_name(f"{folder.name}-serve-{free_port()}.log")
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy"],
            cwd=ROOT,
            env=inherited | OWN_VARIABLES | own | variables,
            stdout=output or file,
            stderr=file,
        )
    return Serve(process, f"http://127.0.0.1:{port}", log)


@contextmanager
def serve(folder: Path, **variables: str) -> Iterator[Serve]:
    """Starts it, yields it when it is ready, and stops it at the end."""
    serving = launch(folder, variables)
    try:
        eventually(serving.has_announced)
        yield serving
    finally:
        if serving.process.poll() is None:
            serving.stop()


def refusal(folder: Path, **variables: str) -> str:
    """Returns the output of a start that fails."""
    refused = launch(folder, variables)
    try:
        assert refused.process.wait(TIMEOUT_SECONDS) == 1, refused.output
    finally:
        refused.process.kill()
        refused.process.wait()
    return refused.output
