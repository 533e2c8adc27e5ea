"""Measures a web process with many readers: latency, CPU time per event, memory per reader.

    .venv/bin/python -m bench.relay --streams 1000 --rate 10
    .venv/bin/python -m bench.relay --streams 1 --idle 5000

A worker with the echo engine runs the streams, and each has one reader. `--idle` adds readers of jobs that
wait. Readers use WebSockets, or Server-Sent Events with `--sse`. All jobs run in one batch, so their events
are published in bursts. The latency of an event is how much later its reader has it than a subscriber of
Redis that does nothing else; both are lean processes (`bench.frames`). `--root` measures another checkout.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import hiredis
import httpx
import psutil
from redis import Redis

from bench.frames import Part, allow_descriptors, reading, streams, subscriber
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
from harness.waiting import eventually
from harness.workers import ROOT
from tasks import keys

MAX_TOKENS = 100_000
BODY = {"prompt": "relay these words", "max_tokens": MAX_TOKENS}
SETTLE_SECONDS = 2.0
"""Between the last reader's connection and the first reading."""

WARM_UP_READERS = 20
"""Readers that come and go before the first reading of memory, so that modules and pools are there."""

MESSAGE = b"*3\r\n$7\r\nmessage\r\n"
FIRST_SEQ = re.compile(rb"\[?([0-9]+)")
FRAME_SEQ = re.compile(rb'\{"seq":([0-9]+),')
KEEP_ALIVE = re.compile(rb"\x89\x00|: keep-alive\n")

Times = dict[tuple[int, int], float]
"""(place of the job, seq) -> when it arrived."""


def published_at(parts: Sequence[Part], places: dict[bytes, int]) -> Times:
    """Returns when the first event of each message was published."""
    found: Times = {}
    reader = hiredis.Reader()
    before: bytes | None = b""
    for at, part in parts:
        data = part
        if before is not None:  # The first part may begin in the middle of a message.
            start = (before + part).find(MESSAGE)
            if start < 0:
                before += part
                continue
            data, before = (before + part)[start:], None
        reader.feed(data)
        while (message := reader.gets()) is not False:
            _, channel, text = message
            seq = FIRST_SEQ.match(text)
            assert seq, text
            found[places[channel], int(seq[1])] = at
    return found


def received_at(readers: Sequence[Sequence[Part]]) -> Times:
    """Returns when the head of each event's frame had arrived."""
    found: Times = {}
    for place, parts in enumerate(readers):
        rest = b""
        for at, data in parts:
            rest += data
            end = 0
            for match in FRAME_SEQ.finditer(rest):
                found[place, int(match[1])] = at
                end = match.end()
            rest = rest[end:]
    return found


def measure(options: argparse.Namespace) -> list[tuple[str, str]]:
    readers = options.streams + options.idle
    environment = {
        "ENGINE": "echo",
        "ECHO_STEP_SECONDS": str(1 / options.rate),
        "MAX_NUM_SEQS": str(options.streams),
        "MAX_MODEL_LEN": str(2 * MAX_TOKENS),
        "MAX_QUEUED_JOBS": str(2 * readers),
        "MAX_STREAMS_PER_KEY": str(2 * readers),
    }
    with ExitStack() as stack:
        url = stack.enter_context(redis_server())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        workers = Workers(url, Path(folder), environment, root=options.root)
        stack.callback(workers.stop)
        workers.start()
        web = stack.enter_context(started_web(workers))
        redis = stack.enter_context(Redis.from_url(url, decode_responses=True))
        client = stack.enter_context(httpx.Client(base_url=web.url, timeout=60))
        jobs = submit(client, readers, BODY)
        [process] = psutil.Process(web.pid).children()
        with reading(streams(web.url, jobs[:1] * WARM_UP_READERS, sse=options.sse)):
            pass
        live = jobs[: options.streams]
        eventually(lambda: all(redis.llen(keys.log(job)) > 1 for job in live), timeout=120)
        eventually(lambda: not redis.pubsub_channels(keys.events("*")))
        time.sleep(SETTLE_SECONDS)
        memory = process.memory_info().rss
        frames = stack.enter_context(reading(streams(web.url, jobs, sse=options.sse)))
        messages = stack.enter_context(reading([subscriber(url, [keys.events(job) for job in live])]))
        time.sleep(SETTLE_SECONDS)
        subscriptions = len(redis.pubsub_channels(keys.events("*")))
        messages.record()
        frames.record()
        cpu, waited = cpu_seconds([process]), waited_seconds([process])
        time.sleep(options.seconds)
        cpu = cpu_seconds([process]) - cpu
        waited = waited_seconds([process]) - waited
        memory = process.memory_info().rss - memory
        received, published = frames.collect(), messages.collect()
    sent = published_at(published.parts[0], {keys.events(job).encode(): i for i, job in enumerate(live)})
    arrived = received_at(received.parts)
    lags = [1000 * (arrived[key] - sent[key]) for key in sent.keys() & arrived.keys()]
    pinged = sum(any(KEEP_ALIVE.search(data) for _, data in parts) for parts in received.parts)
    return [
        ("readers still open", f"{sum(received.open)} of {readers}"),
        ("readers that got a keep-alive", f"{pinged}"),
        ("subscriptions", f"{subscriptions}"),
        ("memory per reader, KB", f"{memory / 1024 / readers:.1f}"),
        ("events/s", f"{len(arrived) / options.seconds:.0f}"),
        ("CPU of web, % of a core", f"{100 * cpu / options.seconds:.1f}"),
        ("web was ready and got no core, %", f"{100 * waited / options.seconds:.1f}"),
        ("CPU of web per event, µs", f"{1e6 * cpu / max(1, len(arrived)):.1f}"),
        *([(f"latency, {name}, ms", f"{value:.1f}") for name, value in spread(lags)] if lags else []),
    ]


def spread(values: Sequence[float]) -> list[tuple[str, float]]:
    return [("median", median(values)), ("p99", p99(values)), ("worst", max(values))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=1000, help="jobs that run, with a reader each")
    parser.add_argument("--rate", type=float, default=10, help="tokens a second of each")
    parser.add_argument("--idle", type=int, default=0, help="further readers, of jobs that wait")
    parser.add_argument("--sse", action="store_true", help="by Server-Sent Events")
    parser.add_argument("--seconds", type=float, default=15, help="of the measurement")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout that web and worker run")
    options = parser.parse_args()
    allow_descriptors(options.streams + options.idle)
    print_table(["one web process", f"{options.streams} + {options.idle} idle"], measure(options))


if __name__ == "__main__":
    main()
