"""Real Celery workers in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.waiting import TIMEOUT_SECONDS, eventually

ROOT = Path(__file__).parents[1]


class WorkerProcess:
    """`celery -A APP worker -n NAME@test` with its output in a file."""

    def __init__(
        self,
        name: str,
        environment: dict[str, str],
        log: Path,
        app: str = "worker.app",
        python: str = sys.executable,
        *,
        options: Sequence[str] = ("-E",),
        root: Path = ROOT,
    ) -> None:
        """options: of `celery worker`. root: the checkout that it runs."""
        self.id = f"{name}@test"
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [python, "-m", "celery", "-A", app, "worker", "-l", "info", "-n", self.id, *options],
                cwd=root,
                env=os.environ | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self, timeout: float = TIMEOUT_SECONDS) -> None:
        eventually(lambda: f"{self.id} ready." in self.output() or self._died(), timeout)

    def output(self) -> str:
        return self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Waits until the process has ended, and returns its exit code."""
        return self.process.wait(timeout=60)

    def _died(self) -> bool:
        code = self.process.poll()
        assert code is None, f"the worker ended with {code}:\n{self.output()}"
        return False


@contextmanager
def start_workers(
    *names: str, folder: Path, app: str = "worker.app", **environment: str
) -> Iterator[list[WorkerProcess]]:
    """Starts workers and yields them when they are ready. Kills them at the end if they still run."""
    workers = [WorkerProcess(name, environment, folder / f"{name}.log", app) for name in names]
    try:
        for worker in workers:
            worker.wait_until_ready()
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
