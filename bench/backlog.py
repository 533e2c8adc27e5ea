"""Measures what a transition costs Redis with 100, 10,000 and 50,000 waiting jobs. It should be the same.

    .venv/bin/python -m bench.backlog

`tasks.store` and `tasks.leases` are called directly, without web and Celery; each backlog has a Redis of its
own. The time is Redis' own for the script, as `INFO commandstats` counts it. "Takeover" is the time from a
lease's end to the next claim, with one reaper and offers that do not go through Celery; up to 50 ms of it
are the reaper's shortest pause.
"""

from __future__ import annotations

import argparse
import queue
import random
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from redis import Redis

from bench.stage import median, p99, print_table, redis_server
from tasks import keys
from tasks.connection import connect
from tasks.job import FinishReason, Status
from tasks.leases import Claim, Leases, Outcome, WorkerInfo, Write
from tasks.log import TokenEntry
from tasks.reaper import Reaper
from tasks.request import parse_request
from tasks.scripts import Offer, Scripts
from tasks.settings import Settings
from tasks.store import Store

BACKLOGS = [100, 10_000, 50_000]
OWNERS = 100
"""How many owners share the line. An owner's index of jobs is a sorted set. Redis searches a sorted set of up
to 128 entries from end to end, so with 100 owners a submit is slowest at 10,000 jobs."""

LEASE_SECONDS = 0.5
"""The shortest that is allowed, because the takeovers wait for it."""

REQUEST = parse_request({"prompt": "Once upon a time", "max_tokens": 64})
MODEL = "m"
WORKER = "w1"
ENGINE_POOL = keys.engine_pool(MODEL, "echo")
LEASE_TOKEN = "lease token"


class Bench:
    """One Redis and the line in it."""

    def __init__(self, redis_url: str, owners: int) -> None:
        self._owners = owners
        settings = Settings(
            redis_url=redis_url, model_id=MODEL, lease_seconds=LEASE_SECONDS, max_queued_jobs=10**6
        )
        self.redis: Redis = connect(settings)
        self.offers: queue.SimpleQueue[str] = queue.SimpleQueue()
        scripts = Scripts(self.redis, settings, self._send_offers)
        self.store, self.leases = Store(scripts), Leases(scripts)
        self.reaper = Reaper(Scripts(connect(settings), settings, self._send_offers))
        self.costs: dict[str, list[float]] = {}
        """Transition -> microseconds in Redis for each call."""

    def _send_offers(self, offers: Sequence[Offer]) -> None:
        for _, job_id in offers:
            self.offers.put(job_id)

    def submit(self) -> None:
        self.store.submit(REQUEST, f"owner{random.randrange(self._owners)}")

    def heartbeat(self, slots: int) -> None:
        self.leases.heartbeat(WorkerInfo(WORKER, MODEL, "echo", slots, 0, 0.0))

    def claim(self, job_id: str, lease_token: str) -> Claim:
        claim = self.leases.claim(job_id, lease_token, WORKER, ENGINE_POOL, free_slots=1, held=0)
        assert isinstance(claim, Claim), claim
        return claim

    def fill(self, jobs: int) -> None:
        self.heartbeat(0)
        while self.redis.zcard(keys.line(keys.queue(MODEL))) < jobs:
            self.submit()

    def waiting_job(self) -> str:
        rank = random.randrange(int(self.redis.zcard(keys.line(keys.queue(MODEL)))))
        return str(self.redis.zrange(keys.line(keys.queue(MODEL)), rank, rank)[0])

    # --- what is measured

    def _count(self, name: str, call: Callable[[], object]) -> None:
        before = self._script_microseconds()
        call()
        self.costs.setdefault(name, []).append(self._script_microseconds() - before)

    def _script_microseconds(self) -> float:
        return float(self.redis.info("commandstats")["cmdstat_evalsha"]["usec"])

    def round(self) -> None:
        """Adds to the costs. Two jobs leave the line and two enter it. No slot is free before and after."""
        self._count("heartbeat, no slot is free", partial(self.heartbeat, 0))
        self._count("dispatch (heartbeat, a slot is free)", partial(self.heartbeat, 1))
        job_id = self.offers.get()
        self._count("claim", partial(self.claim, job_id, LEASE_TOKEN))
        self._count("flush (one token)", partial(self.leases.flush, [_token(job_id)], renew=True))
        self._count(
            "flush (the end, and dispatch)", partial(self.leases.flush, [_end(job_id, 2)], renew=True)
        )
        self.heartbeat(0)
        self._count("cancel", partial(self.store.cancel, self.offers.get()))
        self._count("submit", self.submit)
        self._count("submit", self.submit)
        self._count("position of a waiting job", partial(self.store.get, self.waiting_job()))
        self._count("reap (nothing is due)", self.reaper.reap)

    def takeover_milliseconds(self, repeats: int) -> list[float]:
        """Returns how long it takes to claim a job again after its lease ended, while the worker is alive."""
        found = []
        self.reaper.reap()  # After a long gap it renews every lease instead of expiring any.
        self.reaper.start()
        for _ in range(repeats):
            # So that the claims are not in step with the reaper.
            time.sleep(random.uniform(0, LEASE_SECONDS / keys.HEARTBEATS_PER_LEASE))
            self.heartbeat(1)
            job_id = self.offers.get()
            self.claim(job_id, secrets.token_hex(8))
            lease_end = float(self.redis.zscore(keys.leases(ENGINE_POOL), job_id) or 0)
            time.sleep(LEASE_SECONDS / 2)
            self.heartbeat(1)
            assert self.offers.get() == job_id
            self.claim(job_id, LEASE_TOKEN)
            found.append(1000 * (self.store.get(job_id).attempts[-1].started_at - lease_end))
            self.heartbeat(0)
            self.leases.flush([_end(job_id, 2)], renew=False)
            self.submit()
        self.reaper.stop()
        return found


def _token(job_id: str) -> Write:
    return Write(job_id, LEASE_TOKEN, 1, [TokenEntry(0, (7,), " word").encode()], 4)


def _end(job_id: str, log_length: int) -> Write:
    entry = TokenEntry(0, (8,), " end", FinishReason.LENGTH)
    return Write(job_id, LEASE_TOKEN, log_length, [entry.encode()], 4, Outcome(Status.COMPLETED))


def _cells(columns: Sequence[Sequence[float]], places: int) -> list[str]:
    """Returns the median and p99 of each column, and the ratio of its median to the first one."""
    first = median(columns[0])
    cells = []
    for values in columns:
        cells += [f"{median(values):.{places}f} / {p99(values):.{places}f}"]
        cells += [f"{median(values) / first:.2f}"] if values is not columns[0] else []
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backlogs", type=int, nargs="+", default=BACKLOGS)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--takeovers", type=int, default=20)
    parser.add_argument("--owners", type=int, default=OWNERS)
    options = parser.parse_args()
    with ExitStack() as stack:
        benches = [Bench(stack.enter_context(redis_server()), options.owners) for _ in options.backlogs]
        for bench, backlog in zip(benches, options.backlogs, strict=True):
            bench.fill(backlog)
        # In turns, so that other load on the machine affects all of them alike.
        for _ in range(options.repeats):
            for bench in benches:
                bench.round()
        takeovers = [bench.takeover_milliseconds(options.takeovers) for bench in benches]
    head = ["median / p99, ratio of the medians to the first"]
    for backlog in options.backlogs:
        head += [f"{backlog:,} jobs"] + (["ratio"] if len(head) > 1 else [])
    rows = [[f"{name}, µs", *_cells([b.costs[name] for b in benches], 0)] for name in benches[0].costs]
    print_table(head, [*rows, ["takeover, ms", *_cells(takeovers, 1)]])


if __name__ == "__main__":
    main()
