"""Compares jobs per second: our jobs of one token with the echo engine, and bare Celery tasks with a result.

    .venv/bin/python -m bench.jobs

Both run on the same kind of Redis, with one worker of the same concurrency, and are submitted by one Python
process, which then waits for all results. Celery's worker uses its pool of threads and sends no events for
monitors; ours does, and with --events both do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.stage import print_table, redis_server, started_workers
from harness.waiting import eventually
from harness.workers import WorkerProcess

PROMPT = "word"
WAIT_SECONDS = 60


def bare_rate(redis_url: str, count: int) -> float:
    """Returns tasks/s from the first send to the last result."""
    os.environ["REDIS_URL"] = redis_url
    from bench.bare_celery import one_word

    began = time.perf_counter()
    results = [one_word.delay(PROMPT) for _ in range(count)]
    for result in results:
        assert result.get(timeout=WAIT_SECONDS) == PROMPT
    return count / (time.perf_counter() - began)


def our_rate(redis_url: str, count: int) -> float:
    """Returns jobs/s from the first submit to the last job's end."""
    from tasks import keys
    from tasks.app import JobApp
    from tasks.request import parse_request
    from tasks.settings import ANONYMOUS, EngineKind, Settings

    app = JobApp(Settings(redis_url=redis_url, engine=EngineKind.ECHO))
    redis = app.store.scripts.redis
    before = int(redis.hget(keys.COUNTS, "completed") or 0)
    began = time.perf_counter()
    for _ in range(count):
        app.store.submit(parse_request({"prompt": PROMPT, "max_tokens": 1}), ANONYMOUS)
    eventually(lambda: int(redis.hget(keys.COUNTS, "completed") or 0) - before >= count, WAIT_SECONDS)
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=32, help="slots of our worker, threads of Celery's")
    parser.add_argument("--events", action="store_true", help="let Celery's worker send events as well")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bare_url, our_url = (stack.enter_context(redis_server()) for _ in range(2))
        bare = WorkerProcess(
            "bare",
            {"REDIS_URL": bare_url},
            folder / "bare.log",
            "bench.bare_celery",
            options=("-P", "threads", "-c", str(options.slots), *(["-E"] if options.events else [])),
        )
        stack.callback(bare.process.kill)
        bare.wait_until_ready()
        stack.enter_context(
            started_workers(
                our_url,
                1,
                ENGINE="echo",
                ECHO_STEP_SECONDS="0",
                MAX_NUM_SEQS=str(options.slots),
                MAX_QUEUED_JOBS=str(10 * options.jobs),
            )
        )
        rates = [
            (bare_rate(bare_url, options.jobs), our_rate(our_url, options.jobs))
            for _ in range(options.repeats)
        ]
        celery, ours = (statistics.median(column) for column in zip(*rates, strict=True))
    print_table(
        ["", "a second"],
        [
            ["Celery tasks", f"{celery:.0f}"],
            ["jobs", f"{ours:.0f}"],
            ["jobs / tasks", f"{ours / celery:.2f}"],
        ],
    )


if __name__ == "__main__":
    main()
