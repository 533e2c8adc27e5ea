"""Measures how long a job waits for its first token if jobs of priority low take all slots of the worker.

    .venv/bin/python -m bench.preemption

A worker runs the bundled model. A short job of priority normal is submitted while the worker is idle, then
while long jobs of priority low take all of its slots and as many wait, and so on in turns. Milliseconds are
counted from before the submit until a reader has the first token. The ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench.stage import median, redis_server, started_web, started_workers
from client import Client
from harness.waiting import eventually

PROMPT = "Once upon a time"
SHORT: dict[str, Any] = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
LONG: dict[str, Any] = {"max_tokens": 900, "temperature": 0, "ignore_eos": True, "priority": "low"}
"""Options of jobs that run longer than a measurement takes."""

PREEMPTED = "preempted"


def first_token_ms(client: Client) -> float:
    """Submits a job of priority normal, and waits for its first token and its end."""
    began = time.perf_counter()
    job = client.submit(PROMPT, **SHORT)
    first = None
    for event in client.stream(job.id):
        if event["type"] == "token" and first is None:
            first = time.perf_counter()
    assert first is not None, f"{job.id} has no token"
    return (first - began) * 1000


@contextmanager
def full_house(client: Client, slots: int) -> Iterator[None]:
    """Has jobs of priority low in all slots, each with some tokens, and as many in line."""
    jobs = [client.submit(PROMPT, **LONG).id for _ in range(2 * slots)]
    eventually(lambda: all(tokens_of(client, job_id) for job_id in jobs[:slots]))
    yield
    fields = [client.get(job_id).fields for job_id in jobs]
    attempts = [attempt for one in fields for attempt in one["attempts"]]
    assert any(attempt["reason"] == PREEMPTED for attempt in attempts), "nothing was preempted"
    for job_id in jobs:
        client.cancel(job_id)
    for job_id in jobs:
        client.wait(job_id)


def tokens_of(client: Client, job_id: str) -> int:
    return int(client.get(job_id).fields["usage"]["completion_tokens"])


def measure(slots: int, repeats: int, engine: str) -> tuple[list[float], list[float]]:
    """Returns the milliseconds until the first token: on the idle worker, and in the full house."""
    idle, full = [], []
    with (
        redis_server() as redis_url,
        started_workers(redis_url, 1, ENGINE=engine, MAX_NUM_SEQS=str(slots)) as workers,
        started_web(workers) as web,
        Client(web.url) as client,
    ):
        first_token_ms(client)  # The first job also makes connections.
        for _ in range(repeats):
            idle.append(first_token_ms(client))
            with full_house(client, slots):
                full.append(first_token_ms(client))
    return idle, full


def row(name: str, values: Sequence[float], base: Sequence[float]) -> str:
    ratio = median(values) / median(base)
    return f"| {name} | {median(values):.1f} | {max(values):.1f} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, nargs="*", default=[1, 8, 32], help="of the worker")
    parser.add_argument("--repeats", type=int, default=20, help="measurements of each kind")
    parser.add_argument("--engine", default="transformers", choices=["transformers", "echo"])
    options = parser.parse_args()
    print("first token of a normal job at its reader, ms")
    print("| worker | median | worst | ratio |\n|---|---|---|---|")
    for slots in options.slots:
        idle, full = measure(slots, options.repeats, options.engine)
        name = f"{slots} slot{'s' if slots > 1 else ''}"
        print(row(f"{name}, idle", idle, idle))
        print(row(f"{name}, {2 * slots} low jobs", full, idle), flush=True)


if __name__ == "__main__":
    main()
