"""Looks for leaks after many jobs, and measures what an ended job costs until it is removed.

    .venv/bin/python -m bench.retention

20,000 short jobs go through a real web server and a real worker with a short retention. Some of them have a
reader on a WebSocket. The processes and Redis are measured when the first 2,000 jobs have been removed, and
again when all have been. Whatever has grown in between leaks, except that pools keep as many connections (and
open files) as were ever busy at once. Before that, jobs of several lengths end in a product that keeps them,
and the memory that they take in Redis is divided by their number.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
from redis import Redis

from bench.stage import print_table, redis_server, started_web, started_workers
from client import Client
from harness.product import Web
from harness.waiting import eventually
from harness.workers import WorkerProcess
from tasks import keys

FIRST_JOBS, ALL_JOBS, TOKENS = 2_000, 20_000, 16
RETENTION_SECONDS, UNLIMITED_SECONDS = 20, 86_400
SLOTS = 128
SUBMITTERS, FOLLOWERS, FOLLOWED_EVERY = 4, 16, 50
"""Threads that submit, threads that read streams; every fiftieth job has a reader."""

MEMORY_JOBS = {16: 1_000, 256: 200, 2_048: 40}
"""Tokens of a job -> jobs measured together. They take megabytes, far more than other changes in Redis."""

STEP_SECONDS = 0.01
"""A step of the jobs whose memory is measured: so long that each token is an entry of its own, as with a
model."""

TIMEOUT_SECONDS = 300.0
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Look:
    """What a process, or Redis, uses at one moment."""

    figures: dict[str, float]

    @staticmethod
    def at_process(process: psutil.Process) -> Look:
        return Look(
            {
                "threads": process.num_threads(),
                "open files": process.num_fds(),
                "RSS, MiB": process.memory_info().rss / MIB,
            }
        )

    @staticmethod
    def at_redis(redis: Redis) -> Look:
        return Look(
            {
                "keys": redis.dbsize(),
                "pub/sub channels": len(redis.pubsub_channels()),
                "connections": len(redis.client_list()),
                "memory, MiB": redis.info("memory")["used_memory"] / MIB,
            }
        )


class Product:
    """The running product."""

    def __init__(self, redis_url: str, web: Web, worker: WorkerProcess, client: Client) -> None:
        self.redis: Redis = Redis.from_url(redis_url, decode_responses=True)
        self._web = web
        self._worker = worker
        self._client = client

    def run(self, jobs: int, tokens: int) -> float:
        """Submits from several threads. Returns jobs/s until all jobs have ended and their readers left."""
        began = time.perf_counter()
        readers: list[Future[None]] = []
        with ThreadPoolExecutor(FOLLOWERS) as followers, ThreadPoolExecutor(SUBMITTERS) as submitters:

            def submit(number: int) -> None:
                job = self._client.submit("one two three", max_tokens=tokens)
                if number % FOLLOWED_EVERY == 0:
                    readers.append(followers.submit(self._follow, job.id))

            list(submitters.map(submit, range(jobs)))
        for reader in readers:
            reader.result()
        eventually(lambda: self._count("queued", "in_progress") == 0, TIMEOUT_SECONDS)
        return jobs / (time.perf_counter() - began)

    def wait_until_packed(self) -> None:
        eventually(lambda: self.redis.zcard(keys.PREFIX + "unpacked") == 0, TIMEOUT_SECONDS)

    def wait_until_forgotten(self) -> None:
        eventually(lambda: self._count() == 0, TIMEOUT_SECONDS)

    def look(self) -> dict[str, Look]:
        master = psutil.Process(self._web.pid)
        looks = {"Redis": Look.at_redis(self.redis), "web master": Look.at_process(master)}
        for number, process in enumerate(master.children(), 1):
            looks[f"web worker {number}"] = Look.at_process(process)
        return looks | {"worker": Look.at_process(psutil.Process(self._worker.process.pid))}

    def _follow(self, job_id: str) -> None:
        *_, last = self._client.stream(job_id)
        assert last["type"] == "done", last

    def _count(self, *statuses: str) -> int:
        """Returns the number of jobs with these statuses, or of all jobs."""
        counts = self.redis.hgetall(keys.COUNTS)
        return sum(int(count) for status, count in counts.items() if not statuses or status in statuses)


@contextmanager
def product(retention_seconds: int, step_seconds: float) -> Iterator[Product]:
    variables = {
        "ENGINE": "echo",
        "ECHO_STEP_SECONDS": str(step_seconds),
        "MAX_NUM_SEQS": str(SLOTS),
        "MAX_QUEUED_JOBS": str(ALL_JOBS),
        "JOB_RETENTION_SECONDS": str(retention_seconds),
    }
    with (
        redis_server() as redis_url,
        started_workers(redis_url, 1, **variables) as workers,
        started_web(workers) as web,
        Client(web.url) as client,
    ):
        yield Product(redis_url, web, workers.running[0], client)


def memory_rows() -> list[list[str]]:
    rows = []
    with product(UNLIMITED_SECONDS, STEP_SECONDS) as kept:
        kept.run(SLOTS, TOKENS)  # After this, buffers and tables do not grow.
        kept.wait_until_packed()
        for tokens, jobs in MEMORY_JOBS.items():
            before = kept.redis.info("memory")["used_memory"]
            kept.run(jobs, tokens)
            kept.wait_until_packed()
            each = (kept.redis.info("memory")["used_memory"] - before) / jobs
            rows.append([f"{tokens:,}", f"{jobs:,}", f"{each:,.0f}", f"{each / tokens:.0f}"])
    return rows


def growth_rows(first: dict[str, Look], last: dict[str, Look]) -> list[list[str]]:
    return [
        [f"{place}: {name}", f"{before:,.1f}", f"{last[place].figures[name]:,.1f}"]
        for place, look in first.items()
        for name, before in look.figures.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first-jobs", type=int, default=FIRST_JOBS)
    parser.add_argument("--all-jobs", type=int, default=ALL_JOBS)
    options = parser.parse_args()
    print("memory of ended jobs in Redis")
    print_table(["tokens", "jobs", "bytes per job", "per token"], memory_rows())
    with product(RETENTION_SECONDS, step_seconds=0) as forgetful:
        forgetful.run(options.first_jobs, TOKENS)
        forgetful.wait_until_forgotten()
        first = forgetful.look()
        rate = forgetful.run(options.all_jobs - options.first_jobs, TOKENS)
        forgetful.wait_until_forgotten()
        last = forgetful.look()
        left = sorted(forgetful.redis.keys())
    print(f"\n{TOKENS} tokens a job, {rate:.0f} jobs/s; looked at when all jobs are forgotten")
    head = ["", f"{options.first_jobs:,} jobs", f"{options.all_jobs:,} jobs"]
    print_table(head, growth_rows(first, last))
    print("\nkeys left:", *left, sep="\n  ")


if __name__ == "__main__":
    main()
