"""Measures how much longer the steps of running streams take when a prompt of 1,000 tokens joins them.

    .venv/bin/python -m bench.stall              on an otherwise idle machine

The model has facebook/opt-125m's shape, in bfloat16, on all cores. The prompt is prefilled in chunks, one in
each step of the running streams.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from bench.engines.base import prompts
from bench.models import save_opt_125m
from bench.stage import print_table
from tasks.settings import Settings
from worker.engine import load_engine
from worker.engine.base import Engine, EngineRequest, SamplingParams

STREAMS = [1, 8, 32, 63]
LONG = "long"
LONG_TOKENS = 1000
QUIET_STEPS = 30


def request(name: str, prompt: list[int], tokens: int) -> EngineRequest:
    sampling = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    return EngineRequest(name, tuple(prompt), (), sampling)


def step_seconds(engine: Engine) -> tuple[float, bool]:
    """Returns how long a step took, and whether it brought the long prompt's first token."""
    began = time.perf_counter()
    outputs = engine.step()
    return time.perf_counter() - began, any(output.request_id == LONG for output in outputs)


def stall(engine: Engine, streams: int) -> tuple[list[float], list[float]]:
    """Returns the seconds of the steps before the long prompt came, and of those until its first token."""
    for index, prompt in enumerate(prompts(streams)):
        engine.add_request(request(str(index), prompt, 200))
    while len(engine.step()) < streams:
        pass  # Until all prompts have joined.
    quiet = [step_seconds(engine)[0] for _ in range(QUIET_STEPS)]
    engine.add_request(request(LONG, (prompts(1)[0] * LONG_TOKENS)[:LONG_TOKENS], 1))
    stalled: list[float] = []
    while True:
        seconds, is_first_token = step_seconds(engine)
        stalled.append(seconds)
        if is_first_token:
            break
    while engine.has_unfinished_requests():
        engine.step()
    return quiet, stalled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--streams", nargs="+", type=int, default=STREAMS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-model-") as folder:
        save_opt_125m(Path(folder))
        settings = Settings(
            model_id=folder,
            dtype="bfloat16",
            max_num_seqs=max(options.streams) + 1,
            device="cpu",
            kv_cache_gib=6,
        )
        engine = load_engine(settings)
    stall(engine, 2)
    rows = []
    for streams in options.streams:
        rounds = [stall(engine, streams) for _ in range(options.rounds)]
        step = statistics.median(seconds for quiet, _ in rounds for seconds in quiet)
        longest = statistics.median(max(stalled) for _, stalled in rounds)
        total = statistics.median(sum(stalled) for _, stalled in rounds)
        steps = statistics.median(len(stalled) for _, stalled in rounds)
        milliseconds = [f"{seconds * 1e3:.0f}" for seconds in (step, longest, total)]
        rows.append(
            [str(streams), *milliseconds[:2], f"{longest / step:.1f}", f"{steps:.0f}", milliseconds[2]]
        )
    print_table(
        ["streams", "step, ms", "longest step beside it, ms", "ratio", "steps", "first token, ms"], rows
    )


if __name__ == "__main__":
    main()
