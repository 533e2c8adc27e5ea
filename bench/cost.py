"""CPU time that a token costs in the worker, in Redis and in web, without a model.

    .venv/bin/python -m bench.cost --streams 1 32 256

A worker with the echo engine runs many streams at a fixed rate, with the bundled model's tokenizer.
Meanwhile the CPU time of each process is read. The worker's time includes the echo engine's own step. With
`--readers 1` a client reads each stream over a WebSocket. `--root` measures another checkout.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from redis import Redis

from bench.frames import allow_descriptors, reading
from bench.frames import streams as greetings
from bench.stage import Workers, cpu_seconds, print_table, redis_server, started_web, submit
from harness.product import Web
from harness.waiting import eventually
from harness.workers import ROOT
from tasks import keys

PROMPT = "Once upon a time there was a little fox who lived in a house above the bakery."
SETTLE_SECONDS = 1.0
"""Between the last stream's first token and the first reading."""

MAX_TOKENS = 100_000


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds of each process so far, and tokens in all logs."""

    tokens: int
    seconds: dict[str, float]


def processes_of(redis: Redis, worker_pid: int, web: Web) -> dict[str, list[psutil.Process]]:
    redis_pid = int(redis.info("server")["process_id"])
    return {
        "worker": [psutil.Process(worker_pid)],
        "redis": [psutil.Process(redis_pid)],
        "web": psutil.Process(web.pid).children(),
    }


def read(redis: Redis, jobs: Sequence[str], processes: dict[str, list[psutil.Process]]) -> Reading:
    pipe = redis.pipeline(transaction=False)
    for job in jobs:
        pipe.llen(keys.log(job))
    tokens = sum(pipe.execute())
    return Reading(tokens, {name: cpu_seconds(them) for name, them in processes.items()})


@contextmanager
def followed(web: Web, jobs: Sequence[str], readers: int) -> Iterator[None]:
    """Clients that read each job's stream, in a process of their own: their CPU time is not web's."""
    if not readers:
        yield
        return
    with reading(greetings(web.url, [*jobs] * readers)):
        yield


def measure(
    streams: int, steps_per_second: float, seconds: float, readers: int, root: Path
) -> dict[str, float]:
    """Returns tokens/s, and for each process the microseconds of CPU time a token."""
    environment = {
        "ENGINE": "echo",
        "ECHO_TOKENIZER": "1",
        "ECHO_STEP_SECONDS": str(1 / steps_per_second),
        "MAX_NUM_SEQS": str(max(streams, 1)),
        "MAX_MODEL_LEN": str(2 * MAX_TOKENS),
    }
    with ExitStack() as stack:
        url = stack.enter_context(redis_server())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        workers = Workers(url, Path(folder), environment, root=root)
        stack.callback(workers.stop)
        workers.start()
        web = stack.enter_context(started_web(workers))
        redis = stack.enter_context(Redis.from_url(url, decode_responses=True))
        client = stack.enter_context(httpx.Client(base_url=web.url))
        body = {"prompt": PROMPT, "max_tokens": MAX_TOKENS}
        jobs = submit(client, streams, body)
        stack.enter_context(followed(web, jobs, readers))
        eventually(lambda: all(redis.llen(keys.log(job)) > 1 for job in jobs))
        time.sleep(SETTLE_SECONDS)
        processes = processes_of(redis, workers.running[0].process.pid, web)
        before, began = read(redis, jobs, processes), time.perf_counter()
        time.sleep(seconds)
        after, took = read(redis, jobs, processes), time.perf_counter() - began
    tokens = after.tokens - before.tokens
    cost = {name: 1e6 * (after.seconds[name] - before.seconds[name]) / tokens for name in after.seconds}
    return {"tokens/s": tokens / took, **cost}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--steps", type=float, default=40, help="steps a second")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--readers", type=int, default=0, help="of each stream, over WebSockets")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout that web and worker run")
    options = parser.parse_args()
    allow_descriptors(max(options.streams) * options.readers)
    rows = []
    for streams in options.streams:
        found = measure(streams, options.steps, options.seconds, options.readers, options.root)
        costs = [f"{found[name]:.1f}" for name in ("worker", "redis", "web")]
        rows.append([str(streams), f"{found['tokens/s']:.0f}", *costs])
    print_table(["streams", "tokens/s", "worker, µs", "redis, µs", "web, µs"], rows)


if __name__ == "__main__":
    main()
