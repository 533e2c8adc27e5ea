"""Measures a batch, and how long another client's jobs wait beside it.

    .venv/bin/python -m bench.batch

A file of many lines is uploaded with OpenAI's SDK, and a batch of it runs on one worker. Meanwhile a job of
priority normal with one token is submitted again and again. "Alone" are the same jobs before the batch.
Redis' memory is what the batch adds while it runs, at most, and what is left after its end: the input, the
output, and whatever else is kept.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from openai import OpenAI
from redis import Redis

from bench.stage import median, p99, redis_server, started_web, started_workers
from client import Client

MODEL = "echo"
ALONE = 50
"""How many jobs of priority normal are measured before the batch."""

PROBE_PAUSE_SECONDS = 0.2
MIB = 2**20


def lines(count: int, tokens: int) -> bytes:
    """Returns an input file. Each line asks for other words, so that answers can be told apart."""
    made = []
    for number in range(count):
        body = {"model": MODEL, "prompt": f"line {number} of the batch", "max_tokens": tokens}
        line = {"custom_id": f"{number}", "method": "POST", "url": "/v1/completions", "body": body}
        made.append(json.dumps(line))
    return "\n".join(made).encode()


def probe_ms(client: Client) -> float:
    began = time.perf_counter()
    client.wait(client.submit("hello", max_tokens=1).id)
    return (time.perf_counter() - began) * 1000


class Beside:
    """What happens beside the batch: jobs of priority normal, and Redis' memory."""

    def __init__(self, url: str, redis: Redis) -> None:
        self.waits: list[float] = []
        self.most_bytes = 0
        self._url, self._redis = url, redis
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        with Client(self._url) as client:
            while not self._stop.wait(PROBE_PAUSE_SECONDS):
                self.waits.append(probe_ms(client))
                self.most_bytes = max(self.most_bytes, memory(self._redis))


def memory(redis: Redis) -> int:
    info: Any = redis.info("memory")
    return int(info["used_memory"])


def run(sdk: OpenAI, count: int, tokens: int) -> tuple[float, float, list[Any]]:
    """Returns the seconds of the upload, those of the batch, and the lines of the output file."""
    content = lines(count, tokens)
    began = time.perf_counter()
    file = sdk.files.create(file=("lines.jsonl", content), purpose="batch")
    uploaded = time.perf_counter()
    batch = sdk.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.5)
        batch = sdk.batches.retrieve(batch.id)
    ended = time.perf_counter()
    assert batch.status == "completed", batch
    assert batch.output_file_id is not None
    output = sdk.files.content(batch.output_file_id).text
    return uploaded - began, ended - uploaded, [json.loads(line) for line in output.splitlines()]


def check(answers: list[Any], count: int, tokens: int) -> None:
    """Each line has exactly one answer, and it is the right one."""
    assert Counter(answer["custom_id"] for answer in answers) == Counter(map(str, range(count)))
    for answer in answers:
        words = f"line {answer['custom_id']} of the batch".split()
        expected = " ".join(words[place % len(words)] for place in range(tokens))
        assert answer["response"]["body"]["choices"][0]["text"] == expected, answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--tokens", type=int, default=8, help="of each line")
    parser.add_argument("--slots", type=int, default=32, help="of the worker")
    options = parser.parse_args()
    with (
        redis_server() as redis_url,
        Redis.from_url(redis_url) as redis,
        started_workers(
            redis_url, 1, ENGINE="echo", ECHO_STEP_SECONDS="0.005", MAX_NUM_SEQS=str(options.slots)
        ) as workers,
        started_web(workers) as web,
        Client(web.url) as client,
        OpenAI(base_url=f"{web.url}/v1", api_key="any", timeout=600) as sdk,
    ):
        alone = [probe_ms(client) for _ in range(ALONE)]
        before = memory(redis)
        beside = Beside(web.url, redis)
        with beside.running():
            upload, seconds, answers = run(sdk, options.lines, options.tokens)
        left = memory(redis) - before
        check(answers, options.lines, options.tokens)
    megabytes = len(lines(options.lines, options.tokens)) / 1e6
    print(f"{options.lines:,} lines of {options.tokens} tokens, {megabytes:.1f} MB: each answered once")
    print(f"upload {upload:.1f} s; batch {seconds:.1f} s, {options.lines / seconds:.0f} lines/s")
    print(
        f"Redis: {(beside.most_bytes - before) / MIB:.0f} MiB more at most, {left / MIB:.0f} MiB at the end"
    )
    print("| a normal job of one token, ms | median | p99 | jobs |\n|---|---|---|---|")
    for name, waits in (("alone", alone), ("beside the batch", beside.waits)):
        print(f"| {name} | {median(waits):.0f} | {p99(waits):.0f} | {len(waits)} |")


if __name__ == "__main__":
    main()
