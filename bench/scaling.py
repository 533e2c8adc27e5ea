"""How many tokens a second one Redis carries: more and more steps a second, until something is at its limit.

    .venv/bin/python -m bench.scaling --workers 1 --streams 512 --steps 20 40 80 160 320

Workers with the echo engine and the bundled model's tokenizer run the streams, without readers. For each rate
it prints the tokens/s, how many tokens an entry of the log holds, and the CPU time of Redis and of the
workers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from redis import Redis

from bench.cost import MAX_TOKENS, PROMPT
from bench.stage import Workers, cpu_seconds, print_table, redis_server, started_web, submit
from harness.waiting import eventually
from tasks import keys
from tasks.log import TokenEntry, parse_entry

SETTLE_SECONDS = 3.0
SAMPLED_JOBS = 16
"""How many jobs' logs are read to count tokens: all jobs run in the same steps."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one rate came to."""

    offered: float
    """Tokens/s that the engines are asked for."""
    tokens: float
    """Tokens/s in the logs."""
    tokens_per_entry: float
    redis: float
    """CPU time of Redis, as a share of a core."""
    worker: float
    """CPU time of a worker, as a share of a core."""


def count(redis: Redis, jobs: Sequence[str]) -> tuple[int, int]:
    """Returns how many tokens and entries the jobs' logs have."""
    pipe = redis.pipeline(transaction=False)
    for job in jobs:
        pipe.lrange(keys.log(job), 0, -1)
    entries = [parse_entry(text) for log in pipe.execute() for text in log]
    lengths = [len(entry.token_ids) for entry in entries if isinstance(entry, TokenEntry)]
    return sum(lengths), len(lengths)


def measure(workers: int, streams: int, steps_per_second: float, seconds: float) -> Load:
    """Runs `streams` streams on each worker."""
    environment = {
        "ENGINE": "echo",
        "ECHO_TOKENIZER": "1",
        "ECHO_STEP_SECONDS": str(1 / steps_per_second),
        "MAX_NUM_SEQS": str(streams),
        "MAX_MODEL_LEN": str(2 * MAX_TOKENS),
        "MAX_QUEUED_JOBS": str(2 * workers * streams),
    }
    with ExitStack() as stack:
        url = stack.enter_context(redis_server())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        running = Workers(url, folder, environment)
        stack.callback(running.stop)
        running.start(workers)
        redis = stack.enter_context(Redis.from_url(url, decode_responses=True))
        with started_web(running) as web, httpx.Client(base_url=web.url, timeout=60) as client:
            body = {"prompt": PROMPT, "max_tokens": MAX_TOKENS}
            jobs = submit(client, workers * streams, body)
        eventually(lambda: all(redis.llen(keys.log(job)) > 1 for job in jobs), timeout=120)
        time.sleep(SETTLE_SECONDS)
        sample = jobs[:: max(1, len(jobs) // SAMPLED_JOBS)]
        redis_process = [psutil.Process(int(redis.info("server")["process_id"]))]
        worker_processes = [psutil.Process(worker.process.pid) for worker in running.running]
        (tokens, entries), began = count(redis, sample), time.perf_counter()
        before = cpu_seconds(redis_process), cpu_seconds(worker_processes)
        time.sleep(seconds)
        after = cpu_seconds(redis_process), cpu_seconds(worker_processes)
        took = time.perf_counter() - began
        later_tokens, later_entries = count(redis, sample)
    gained = later_tokens - tokens
    return Load(
        offered=workers * streams * steps_per_second,
        tokens=gained / len(sample) * len(jobs) / took,
        tokens_per_entry=gained / max(1, later_entries - entries),
        redis=(after[0] - before[0]) / took,
        worker=(after[1] - before[1]) / took / workers,
    )


def chart(title: str, loads: Sequence[Load], unit: str, series: Sequence[Sequence[float]]) -> str:
    """Returns a chart in the language of Mermaid, which Markdown viewers draw. All series begin at 0."""
    asked = ", ".join(f'"{load.offered / 1000:.0f}k"' for load in loads)
    highest = max(max(values) for values in series)
    lines = [f"  line [{', '.join(f'{value:.0f}' for value in values)}]" for values in series]
    axes = [f'  x-axis "tokens/s asked for" [{asked}]', f'  y-axis "{unit}" 0 --> {highest:.0f}']
    return "\n".join(["```mermaid", "xychart-beta", f'  title "{title}"', *axes, *lines, "```"])


def charts(loads: Sequence[Load]) -> Sequence[str]:
    rates = [[load.offered for load in loads], [load.tokens for load in loads]]
    shares = [[100 * load.redis for load in loads], [100 * load.worker for load in loads]]
    return [
        chart("Asked for (upper line) and in the logs", loads, "tokens/s", rates),
        chart("CPU time of Redis (upper line) and of a worker", loads, "% of a core", shares),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--streams", type=int, default=512, help="of each worker")
    parser.add_argument("--steps", type=float, nargs="+", default=[20, 40, 80, 160, 320], help="a second")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--charts", action="store_true", help="print charts for docs/scaling.md, too")
    options = parser.parse_args()
    loads = [
        measure(options.workers, options.streams, steps, options.seconds) for steps in sorted(options.steps)
    ]
    rows = [
        [
            f"{load.offered:.0f}",
            f"{load.tokens:.0f}",
            f"{load.tokens_per_entry:.2f}",
            f"{100 * load.redis:.0f}",
            f"{100 * load.worker:.0f}",
            f"{1e6 * load.redis / load.tokens:.1f}",
        ]
        for load in loads
    ]
    head = [
        "asked for, tokens/s",
        "in the logs",
        "tokens an entry",
        "Redis, %",
        "worker, %",
        "Redis, µs a token",
    ]
    print_table(head, rows)
    if options.charts:
        print(*charts(loads), sep="\n")


if __name__ == "__main__":
    main()
