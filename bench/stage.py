"""What the benchmarks share: processes on loopback that end with the benchmark, quantiles and tables."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from harness.product import Web
from harness.redis_server import start_redis
from harness.workers import ROOT, WorkerProcess

START_SECONDS = 180.0
"""How long a worker may take to load its model."""


@contextmanager
def redis_server(*options: str, folder: Path | None = None) -> Iterator[str]:
    """Runs an empty Redis with its files in a new folder (below `folder`), and yields its URL."""
    with tempfile.TemporaryDirectory(prefix="bench-redis-", dir=folder) as files:
        process, url = start_redis(Path(files), *options)
        try:
            yield url
        finally:
            process.kill()
            process.wait()


@dataclass
class Workers:
    """Real workers on one Redis. Their output is in files below `folder`."""

    redis_url: str
    folder: Path
    environment: dict[str, str]
    root: Path = ROOT
    """The checkout that the next started workers run."""
    running: list[WorkerProcess] = field(default_factory=list)
    _started: int = 0

    def start(self, count: int = 1) -> None:
        """Starts `count` more workers, and returns when they are ready."""
        new = [self._start_one() for _ in range(count)]
        for worker in new:
            worker.wait_until_ready(START_SECONDS)

    def stop(self) -> None:
        for worker in self.running:
            worker.process.kill()
            worker.process.wait()

    def _start_one(self) -> WorkerProcess:
        self._started += 1
        name = f"w{self._started}"
        variables = {"REDIS_URL": self.redis_url, **self.environment}
        worker = WorkerProcess(name, variables, self.folder / f"{name}.log", root=self.root)
        self.running.append(worker)
        return worker


@contextmanager
def started_workers(redis_url: str, count: int, **environment: str) -> Iterator[Workers]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        workers = Workers(redis_url, Path(folder), environment)
        try:
            workers.start(count)
            yield workers
        finally:
            workers.stop()


@contextmanager
def started_web(workers: Workers) -> Iterator[Web]:
    """Runs gunicorn, ready for jobs of these workers."""
    web = Web(workers.redis_url, workers.folder, workers.environment, root=workers.root)
    try:
        web.start()
        yield web
    finally:
        web.kill()


def submit(client: httpx.Client, count: int, body: dict[str, Any]) -> list[str]:
    """Submits the same job `count` times, one after the other. Returns the ids."""
    return [str(client.post("/v1/jobs", json=body).raise_for_status().json()["id"]) for _ in range(count)]


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Returns the CPU time of processes so far, that of the system for them included."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def waited_seconds(processes: Sequence[psutil.Process]) -> float:
    """Returns how long threads of the processes were ready to run and did not, because others ran."""
    files = [
        Path(f"/proc/{one.pid}/task/{thread.id}/schedstat") for one in processes for thread in one.threads()
    ]
    return sum(int(file.read_text().split()[1]) for file in files) / 1e9


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    """Returns the 99th percentile; the highest of fewer than 100 values."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns as wide as their widest cell, the first one aligned left, the others right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *cells[1:]]), flush=True)
