"""Measures how long readers wait when a worker is killed, and when workers are restarted one after the other.

    .venv/bin/python -m bench.failover

Killed (kill -9): two workers run the bundled model, and jobs fill all their slots. The jobs of one worker are
cancelled, then the other worker is killed. Seconds are counted from the kill until the lease ended, until the
job was claimed again, and until its reader had the next token.

Upgraded: three workers run the echo engine, and any two of them have slots for all jobs. The web server is
behind a load balancer. The web server and each worker, one after the other, are told to end (SIGTERM,
DRAIN_SECONDS=1) and replaced by another release: the last tag, or what may be the next release. Then they are
all replaced again by this one. Seconds are the longest time between two tokens of a stream.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

from bench.stage import Workers, median, p99, print_table, redis_server, started_web, started_workers
from client import Client, Event, Job
from harness.proxy import Proxy
from harness.releases import releases
from harness.waiting import eventually
from harness.workers import WorkerProcess

LEASE_SECONDS = 5
TIMEOUT_SECONDS = 60.0
LONG: dict[str, Any] = {"max_tokens": 1000, "temperature": 0, "ignore_eos": True}
"""Options of jobs that are as long as the bundled model allows, so that none ends before the kill."""

ROLLED_WORKERS, ROLLED_SLOTS, STEP_SECONDS, DRAIN_SECONDS = 3, 16, 0.05, 1
ECHO_LONG: dict[str, Any] = {"max_tokens": 4000}
SETTLE_SECONDS = 1.0
"""How long jobs stream before, between and after restarts."""


class Follower:
    """A reader of one job, which keeps the time at which each event came."""

    def __init__(self, client: Client, job: Job) -> None:
        self.job_id = job.id
        self.seen: list[tuple[float, Event]] = []
        self._client = client
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        for event in self._client.stream(self.job_id):
            self.seen.append((time.time(), event))

    def join(self) -> None:
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive(), f"the stream of {self.job_id} does not end"

    def first_token_at(self, attempt: int) -> float | None:
        """Returns when the attempt's first token came, or None."""
        current = 0
        for at, event in [*self.seen]:
            if event["type"] == "status":
                current = event["attempt"]
            elif event["type"] == "token" and current == attempt:
                return at
        return None

    def longest_pause(self) -> float:
        times = [at for at, event in self.seen if event["type"] == "token"]
        return max(after - before for before, after in pairwise(times))


@dataclass(frozen=True, slots=True)
class Takeover:
    """When a job passed each step of a takeover, in seconds from the kill."""

    lease_end: float
    claim: float
    token: float
    prefilled: int
    """Tokens of the worker's first stream at the kill. The other worker computes them again."""


def take_over(client: Client, workers: Workers, jobs: int) -> list[Takeover]:
    """Kills a worker that runs `jobs` jobs. They continue on the other worker."""
    submitted = [client.submit("Once upon a time", **LONG) for _ in range(2 * jobs)]
    victim = _worker_of(client, submitted[0], workers)
    is_victims = {job.id: _worker_of(client, job, workers) is victim for job in submitted}
    followers = [Follower(client, job) for job in submitted if is_victims[job.id]]
    assert len(followers) == jobs, "the jobs are not shared evenly"
    for job in submitted:
        if not is_victims[job.id]:
            client.cancel(job.id)
            client.wait(job.id)
    eventually(lambda: all(f.first_token_at(attempt=1) for f in followers))
    killed_at = time.time()
    victim.process.kill()
    victim.process.wait()
    workers.running.remove(victim)
    prefilled = client.get(followers[0].job_id).fields["usage"]["completion_tokens"]
    eventually(lambda: all(f.first_token_at(attempt=2) for f in followers), TIMEOUT_SECONDS)
    takeovers = [_takeover(client, follower, killed_at, prefilled) for follower in followers]
    for follower in followers:
        client.cancel(follower.job_id)
        follower.join()
    return takeovers


def _worker_of(client: Client, job: Job, workers: Workers) -> WorkerProcess:
    attempt = eventually(lambda: client.get(job.id).fields["attempts"])[0]
    return next(worker for worker in workers.running if worker.id == attempt["worker"])


def _takeover(client: Client, follower: Follower, killed_at: float, prefilled: int) -> Takeover:
    first, second = client.get(follower.job_id).fields["attempts"][:2]
    token_at = follower.first_token_at(attempt=2)
    assert token_at is not None
    return Takeover(
        _seconds(first["ended_at"]) - killed_at,
        _seconds(second["started_at"]) - killed_at,
        token_at - killed_at,
        prefilled,
    )


def _seconds(iso8601: str) -> float:
    return datetime.fromisoformat(iso8601).timestamp()


def measure_kills(jobs: int, repeats: int) -> list[Takeover]:
    environment = {
        "ENGINE": "transformers",
        "MAX_NUM_SEQS": str(jobs),
        "LEASE_SECONDS": str(LEASE_SECONDS),
        "OMP_NUM_THREADS": "1",  # Two workers would otherwise wait for each other's threads.
    }
    takeovers: list[Takeover] = []
    with (
        redis_server() as redis_url,
        started_workers(redis_url, 2, **environment) as workers,
        started_web(workers) as web,
        Client(web.url) as client,
    ):
        for _ in range(repeats):
            workers.start(2 - len(workers.running))
            takeovers += take_over(client, workers, jobs)
    return takeovers


def measure_upgrades(streams: int, repeats: int) -> list[float]:
    """Returns the longest pause of each stream while web and every worker are replaced `repeats` times."""
    environment = {
        "ENGINE": "echo",
        "ECHO_STEP_SECONDS": str(STEP_SECONDS),
        "MAX_NUM_SEQS": str(ROLLED_SLOTS),
        "DRAIN_SECONDS": str(DRAIN_SECONDS),
        "LEASE_SECONDS": str(LEASE_SECONDS),
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        redis_server() as redis_url,
        started_workers(redis_url, ROLLED_WORKERS, **environment) as workers,
        ExitStack() as webs,
    ):
        current, other = releases(Path(folder))
        web = webs.enter_context(started_web(workers))
        balancer = webs.enter_context(Proxy(web.url))
        client = webs.enter_context(Client(balancer.url))
        jobs = [client.submit("Once upon a time", **ECHO_LONG) for _ in range(streams)]
        followers = [Follower(client, job) for job in jobs]
        eventually(lambda: all(f.first_token_at(attempt=1) for f in followers))
        for release in islice(cycle([other, current]), repeats):
            time.sleep(SETTLE_SECONDS)
            workers.root = release.root
            newer = webs.enter_context(started_web(workers))
            balancer.lead_to(newer.url)
            web.terminate()
            web = newer
            for _ in range(ROLLED_WORKERS):
                time.sleep(SETTLE_SECONDS)
                worker = workers.running.pop(0)
                worker.signal(signal.SIGTERM)
                worker.wait()
                workers.start()
        time.sleep(SETTLE_SECONDS)
        for follower in followers:
            client.cancel(follower.job_id)
            follower.join()
        attempts = [len(client.get(job.id).fields["attempts"]) for job in jobs]
        print(f"{streams} streams, {sum(attempts) - streams} times continued by another worker")
        return [follower.longest_pause() for follower in followers]


def _cells(values: Sequence[float]) -> list[str]:
    return [f"{median(values):.2f} / {max(values):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, nargs="*", default=[1, 32], help="on the worker that is killed")
    parser.add_argument("--repeats", type=int, default=3, help="kills for each number of jobs; rolls")
    parser.add_argument("--streams", type=int, default=24, help="during the upgrades; 0: none")
    options = parser.parse_args()
    rows = []
    for jobs in options.jobs:
        takeovers = measure_kills(jobs, options.repeats)
        columns = (
            [t.lease_end for t in takeovers],
            [t.claim for t in takeovers],
            [t.token for t in takeovers],
        )
        prefilled = [t.prefilled for t in takeovers]
        tokens = f"{median(prefilled):.0f} / {max(prefilled)}"
        rows.append([f"{jobs}", tokens, *(cell for column in columns for cell in _cells(column))])
    if rows:
        print(f"kill -9, {options.repeats} times, LEASE_SECONDS={LEASE_SECONDS}; median / worst, s")
        print_table(["jobs", "tokens before", "lease end", "claim", "next token"], rows)
    if options.streams:
        pauses = measure_upgrades(options.streams, options.repeats)
        print(
            f"{options.repeats} rolling upgrades, DRAIN_SECONDS={DRAIN_SECONDS}; longest pause of a stream, s"
        )
        print_table(["streams", "median", "p99", "worst"], [[f"{len(pauses)}", *_summary(pauses)]])


def _summary(pauses: Sequence[float]) -> list[str]:
    return [f"{value:.2f}" for value in (median(pauses), p99(pauses), max(pauses))]


if __name__ == "__main__":
    main()
