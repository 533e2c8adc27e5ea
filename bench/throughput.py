"""Compares tokens/s of the whole pipeline and of the engine alone; measures the time to the first token when
idle.

    make serve                                   in one terminal, on an otherwise idle machine
    .venv/bin/python -m bench.throughput         in another

Both decode the same requests with the same settings, one after the other in one run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import httpx

from tasks.request import parse_request
from tasks.settings import get_settings
from worker.engine import load_engine
from worker.engine.base import Engine, EngineRequest, SamplingParams

PROMPT = "Once upon a time"
TOKENS = 256
"""New tokens per job. The end of a tale is ignored, so that all jobs have the same number."""

IDLE_JOBS = 20
TIMEOUT_SECONDS = 300.0


def body() -> dict[str, Any]:
    return {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}


def engine_rate(engine: Engine, jobs: int) -> float:
    """Returns tokens/s of the engine alone with `jobs` sequences."""
    prompt_ids = engine.encode(parse_request(body())).token_ids
    sampling = SamplingParams(max_tokens=TOKENS, temperature=0, ignore_eos=True)
    began = time.perf_counter()
    for i in range(jobs):
        engine.add_request(EngineRequest(str(i), prompt_ids, (), sampling))
    while engine.has_unfinished_requests():
        engine.step()
    return jobs * TOKENS / (time.perf_counter() - began)


def pipeline_rate(client: httpx.Client, jobs: int) -> float:
    """Returns tokens/s from the first submit to the last job's end, as a client sees it."""
    began = time.perf_counter()
    ids = [client.post("/v1/jobs", json=body()).raise_for_status().json()["id"] for _ in range(jobs)]
    for job_id in ids:
        job = client.get(f"/v1/jobs/{job_id}", params={"wait": 60}).raise_for_status().json()
        assert job["status"] == "completed", job
    return jobs * TOKENS / (time.perf_counter() - began)


def first_token_milliseconds(client: httpx.Client) -> float:
    """Returns the time from sending the submit to the first token of the job's event stream."""
    began = time.perf_counter()
    job = client.post("/v1/jobs", json=body() | {"max_tokens": 2}).raise_for_status().json()
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        for line in events.iter_lines():
            if line == "event: token":
                return 1000 * (time.perf_counter() - began)
    raise RuntimeError("the stream ended without a token")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    engine = load_engine(get_settings())
    engine.warm_up()
    with httpx.Client(base_url=options.url, timeout=TIMEOUT_SECONDS) as client:
        pipeline_rate(client, 1)
        times = sorted(first_token_milliseconds(client) for _ in range(IDLE_JOBS))
        print(f"first token when idle: median {statistics.median(times):.1f} ms, worst {times[-1]:.1f} ms")
        print(f"{'jobs':>5} {'engine alone':>14} {'pipeline':>10} {'ratio':>6}   tokens/s, medians")
        for jobs in options.jobs:
            rates = [(engine_rate(engine, jobs), pipeline_rate(client, jobs)) for _ in range(options.repeats)]
            alone, whole = (statistics.median(column) for column in zip(*rates, strict=True))
            print(f"{jobs:>5} {alone:>14.0f} {whole:>10.0f} {whole / alone:>6.2f}")


if __name__ == "__main__":
    main()
