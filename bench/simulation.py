"""A simulated GPU: hundreds of streams at a fixed rate, with a real tokenizer, sockets and a reader each.

    .venv/bin/python -m bench.simulation --streams 512 --steps 40 --web-processes 1

The worker's echo engine makes a step for all streams every 1/40 s, whether or not the rest keeps up. The
readers use WebSockets. A frame's lateness is how much later it came than the frames of the same stream that
came fastest, counted on the grid of steps: so a step that begins late counts too, and a rate that is not
sustained shows as lateness that grows. `--root` measures another checkout.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import httpx
import psutil
from redis import Redis

from bench.cost import MAX_TOKENS, PROMPT
from bench.frames import Part, allow_descriptors, reading, streams
from bench.models import MODELS
from bench.stage import (
    Workers,
    cpu_seconds,
    median,
    p99,
    print_table,
    redis_server,
    started_web,
    submit,
    waited_seconds,
)
from harness.workers import ROOT
from worker.engine.text.tokenizer import load_tokenizer

SETTLE_SECONDS = 3.0
"""The time after the worker's start that is not counted: prompts are tokenized, connections warm up."""

TOKEN = re.compile(rb'"type":"token","index":0,"text":("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of one kind of process so far, and seconds in which it was ready to run and had no core."""

    used: float
    waited: float

    @classmethod
    def of(cls, processes: Sequence[psutil.Process]) -> Usage:
        return cls(cpu_seconds(processes), waited_seconds(processes))


class Cycle:
    """The text that the echo engine repeats, and where its tokens end."""

    def __init__(self, folder: Path) -> None:
        tokenizer = load_tokenizer(str(MODELS["bundled"](folder)), "bundled")
        texts = [tokenizer.decode([token], skip_special_tokens=True) for token in tokenizer(PROMPT).input_ids]
        self._ends = [*accumulate(map(len, texts))]

    def tokens(self, characters: int) -> int:
        """Returns how many tokens make a text of this length. Some tokens have no text."""
        cycles, rest = divmod(characters, self._ends[-1])
        return cycles * len(self._ends) + (bisect_left(self._ends, rest) + 1 if rest else 0)


def frames(parts: Sequence[Part], cycle: Cycle) -> Iterator[tuple[float, int]]:
    """Yields when each frame of a stream, from its first one on, had arrived, and its tokens so far."""
    rest, characters = b"", 0
    for at, data in parts:
        rest += data
        end = 0
        for match in TOKEN.finditer(rest):
            characters += len(json.loads(match[1]))
            yield at, cycle.tokens(characters)
            end = match.end()
        rest = rest[end:]


def lateness(stream: Sequence[tuple[float, int]], step_seconds: float) -> list[float]:
    """Returns how many seconds later than its fastest frame each frame came, counted on the grid of steps."""
    delays = [at - tokens * step_seconds for at, tokens in stream]
    fastest = min(delays)
    return [delay - fastest for delay in delays]


def measure(options: argparse.Namespace) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    environment = {
        "ENGINE": "echo",
        "ECHO_TOKENIZER": "1",
        "ECHO_STEP_SECONDS": str(1 / options.steps),
        "MAX_NUM_SEQS": str(options.streams),
        "MAX_MODEL_LEN": str(2 * MAX_TOKENS),
        "MAX_QUEUED_JOBS": str(2 * options.streams),
        "MAX_STREAMS_PER_KEY": str(2 * options.streams),
        "WEB_CONCURRENCY": str(options.web_processes),
    }
    with ExitStack() as stack:
        url = stack.enter_context(redis_server())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        cycle = Cycle(folder)
        workers = Workers(url, folder, environment, root=options.root)
        stack.callback(workers.stop)
        workers.start()
        web = stack.enter_context(started_web(workers))
        workers.stop()  # The readers come first, so that they see each stream from its first token on.
        workers.running.clear()
        redis = stack.enter_context(Redis.from_url(url, decode_responses=True))
        client = stack.enter_context(httpx.Client(base_url=web.url, timeout=60))
        jobs = submit(client, options.streams, {"prompt": PROMPT, "max_tokens": MAX_TOKENS})
        before = {*psutil.Process().children()}
        reader = stack.enter_context(reading(streams(web.url, jobs)))
        reader.record()
        client_process = {*psutil.Process().children()} - before
        workers.start()
        processes = {
            "worker": [psutil.Process(workers.running[0].process.pid)],
            "redis": [psutil.Process(int(redis.info("server")["process_id"]))],
            "web": psutil.Process(web.pid).children(),
            "readers": [*client_process],
        }
        time.sleep(SETTLE_SECONDS)
        began = time.perf_counter()
        usage = {name: Usage.of(them) for name, them in processes.items()}
        time.sleep(options.seconds)
        ended = time.perf_counter()
        after = {name: Usage.of(them) for name, them in processes.items()}
        received = reader.collect()
    took = ended - began
    tokens, late = 0, list[float]()
    for parts in received.parts:
        stream = [one for one in frames(parts, cycle) if began <= one[0] < ended]
        tokens += stream[-1][1] - stream[0][1] if stream else 0
        late += lateness(stream, 1 / options.steps) if stream else []
    shares: list[tuple[str, ...]] = [
        (
            name,
            f"{100 * (after[name].used - usage[name].used) / took:.0f}",
            f"{100 * (after[name].waited - usage[name].waited) / took:.0f}",
            f"{1e6 * (after[name].used - usage[name].used) / max(1, tokens):.1f}",
        )
        for name in processes
    ]
    figures: list[tuple[str, ...]] = [
        ("tokens/s", f"{tokens / took:.0f} of {options.streams * options.steps:.0f}"),
        ("frames/s", f"{len(late) / took:.0f}"),
        ("lateness, median, ms", f"{1000 * median(late):.1f}"),
        ("lateness, p99, ms", f"{1000 * p99(late):.1f}"),
        ("lateness, worst, ms", f"{1000 * max(late):.1f}"),
    ]
    return figures, shares


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=512)
    parser.add_argument("--steps", type=float, default=40, help="steps a second")
    parser.add_argument("--web-processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15, help="of the measurement")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout that web and worker run")
    options = parser.parse_args()
    allow_descriptors(options.streams)
    figures, shares = measure(options)
    print_table([f"{options.streams} streams, {options.steps:g} steps/s", ""], figures)
    print_table(["", "CPU, %", "waited for a core, %", "µs a token"], shares)


if __name__ == "__main__":
    main()
