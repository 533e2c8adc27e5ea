"""Compares tokens/s of the whole pipeline and of the engine alone; measures the time to the first token when
idle.

    .venv/bin/python -m bench.throughput --jobs 1 32
    .venv/bin/python -m bench.throughput --jobs 32 64 --model opt-125m
    .venv/bin/python -m bench.throughput --jobs 32 --redis-milliseconds 2

It runs a Redis, a worker and web of its own. The engine alone runs in this process, with the same settings
and the same requests, in turns with the pipeline. The machine should do nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import httpx
from redis import Redis

from bench.models import MODELS
from bench.stage import print_table, redis_server, started_web, started_workers
from harness.proxy import Proxy
from tasks import keys
from tasks.request import parse_request
from tasks.settings import Settings
from worker.engine import load_engine
from worker.engine.base import Engine, EngineRequest, SamplingParams

PROMPT = "Once upon a time"
SUBMITTERS = 8
"""How many clients submit at the same time."""

IDLE_JOBS = 20
TIMEOUT_SECONDS = 300.0


def body(tokens: int) -> dict[str, Any]:
    """The end of a tale is ignored, so that all jobs have the same number of tokens."""
    return {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}


def engine_seconds(engine: Engine, jobs: int, tokens: int) -> float:
    """Returns how long the engine alone takes for `jobs` sequences."""
    prompt_ids = engine.encode(parse_request(body(tokens))).token_ids
    sampling = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    began = time.perf_counter()
    for i in range(jobs):
        engine.add_request(EngineRequest(str(i), prompt_ids, (), sampling))
    while engine.has_unfinished_requests():
        engine.step()
    return time.perf_counter() - began


def pipeline_seconds(client: httpx.Client, redis: Redis, jobs: int, tokens: int) -> float:
    """Returns the time from the first submit to the last job's end, which the records have.

    Clients submit at the same time. One by one, they would measure how long a client takes to submit.
    """

    def submit(_: int) -> str:
        return str(client.post("/v1/jobs", json=body(tokens)).raise_for_status().json()["id"])

    began = time.time()
    with ThreadPoolExecutor(SUBMITTERS) as submitters:
        ids = [*submitters.map(submit, range(jobs))]
    for job_id in ids:
        job = client.get(f"/v1/jobs/{job_id}", params={"wait": 60}).raise_for_status().json()
        assert job["status"] == "completed", job
    ended = (cast("str", redis.hget(keys.job(job_id), "ended_at")) for job_id in ids)
    return max(map(float, ended)) - began


def first_token_parts(client: httpx.Client, redis: Redis) -> list[float]:
    """Returns the seconds from sending a submit to its record, from there to the claim, to the first token in
    Redis, and to the token in the job's event stream; and their sum.
    """
    began = time.time()
    job = client.post("/v1/jobs", json=body(2)).raise_for_status().json()
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        arrived = next(time.time() for line in events.iter_lines() if line == "event: token")
    record = cast("dict[str, str]", redis.hgetall(keys.job(job["id"])))
    noted = (float(record[name]) for name in ("created_at", "started_at", "first_token_at"))
    moments = [began, *noted, arrived]
    return [*(after - before for before, after in itertools.pairwise(moments)), arrived - began]


def _serve_proxy(redis_url: str, milliseconds: float, urls: Connection) -> None:
    with Proxy(redis_url) as proxy:
        proxy.delay(milliseconds / 2000)
        urls.send(proxy.url)
        threading.Event().wait()  # Until the process is killed.


@contextmanager
def distant(redis_url: str, milliseconds: float) -> Iterator[str]:
    """Yields the URL of the same Redis, with this round trip, by a proxy in a process of its own."""
    if not milliseconds:
        yield redis_url
        return
    receiver, sender = multiprocessing.Pipe(duplex=False)
    proxy = multiprocessing.Process(target=_serve_proxy, args=(redis_url, milliseconds, sender), daemon=True)
    proxy.start()
    try:
        yield receiver.recv()
    finally:
        proxy.kill()
        proxy.join()


@contextmanager
def product(environment: dict[str, str], redis_milliseconds: float) -> Iterator[tuple[httpx.Client, Redis]]:
    """Runs the product, and yields clients of its web and its Redis."""
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_server())
        url = stack.enter_context(distant(redis_url, redis_milliseconds))
        workers = stack.enter_context(started_workers(url, 1, **environment))
        web = stack.enter_context(started_web(workers))
        redis = stack.enter_context(Redis.from_url(redis_url, decode_responses=True))
        yield stack.enter_context(httpx.Client(base_url=web.url, timeout=TIMEOUT_SECONDS)), redis


def measure(
    engine: Engine, client: httpx.Client, redis: Redis, jobs: int, tokens: int, repeats: int
) -> list[str]:
    alone, whole = [], []
    for _ in range(repeats):
        alone.append(jobs * tokens / engine_seconds(engine, jobs, tokens))
        whole.append(jobs * tokens / pipeline_seconds(client, redis, jobs, tokens))
    ratio = statistics.median(whole) / statistics.median(alone)
    return [str(jobs), f"{statistics.median(alone):.0f}", f"{statistics.median(whole):.0f}", f"{ratio:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--model", choices=MODELS, default="bundled")
    parser.add_argument("--tokens", type=int, default=256, help="new tokens of each job")
    parser.add_argument("--redis-milliseconds", type=float, default=0, help="round trip to Redis")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = str(MODELS[options.model](Path(folder)))
        environment = {
            "MODEL_ID": model,
            "SERVED_MODEL_NAME": options.model,
            "ENGINE": "transformers",
            "MAX_NUM_SEQS": str(max(options.jobs)),
        }
        os.environ.update(environment)
        engine = load_engine(Settings())
        engine.warm_up()
        client, redis = stack.enter_context(product(environment, options.redis_milliseconds))
        pipeline_seconds(client, redis, 1, options.tokens)
        alone = statistics.median(engine_seconds(engine, 1, 1) for _ in range(IDLE_JOBS))
        parts = zip(*(first_token_parts(client, redis) for _ in range(IDLE_JOBS)), strict=True)
        names = ("to the record", "to the claim", "to the first token", "to its reader", "in all")
        figures = [("engine alone", alone), *zip(names, map(statistics.median, parts), strict=True)]
        print("first token when idle, ms:", ", ".join(f"{name} {1000 * took:.1f}" for name, took in figures))
        rows = [
            measure(engine, client, redis, jobs, options.tokens, options.repeats) for jobs in options.jobs
        ]
    print_table(["jobs", "engine alone, tokens/s", "pipeline", "ratio"], rows)


if __name__ == "__main__":
    main()
