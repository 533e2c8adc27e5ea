"""Measures the latency of the relay, from Redis' publish to the client's socket, with many streams at once.

    make serve ENGINE=echo MAX_NUM_SEQS=256 ECHO_STEP_SECONDS=0.25      in one terminal
    .venv/bin/python -m bench.relay --streams 200                       in another

A subscriber in this process gets each message from Redis directly. The latency of an event is how much later
its WebSocket client, in the same process, has it. The subscriber's own delay is printed too, because messages
also wait in this process when all streams publish in one step.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import json
import statistics
import time
from pathlib import Path

import gevent
import httpx
import websocket
from gevent.event import Event
from redis import Redis

from tasks import keys

Seen = dict[tuple[str, int], float]
"""(job id, seq) -> time.perf_counter() when it arrived."""


def subscribe(redis_url: str, job_ids: list[str], seen: Seen, ready: Event) -> None:
    with Redis.from_url(redis_url, decode_responses=True) as redis, redis.pubsub() as pubsub:
        pubsub.subscribe(*(keys.events(job_id) for job_id in job_ids))
        confirmed = 0
        for message in pubsub.listen():
            now = time.perf_counter()
            if message["type"] == "subscribe":
                confirmed += 1
                if confirmed == len(job_ids):
                    ready.set()
            else:
                first, *entries = json.loads(message["data"])
                job_id = message["channel"].rsplit(":", 1)[1]
                for i in range(len(entries)):
                    seen[job_id, first + i] = now


def follow(url: str, job_id: str, seen: Seen) -> None:
    stream = websocket.create_connection(url)
    while True:
        event = json.loads(stream.recv())
        seen[job_id, event["seq"]] = time.perf_counter()
        if event["type"] == "done":
            stream.close()
            return


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--redis-url", help="default: that of `make serve`, from .data/redis.url")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=60)
    options = parser.parse_args()
    redis_url = options.redis_url or Path(".data/redis.url").read_text().strip()
    published: Seen = {}
    received: Seen = {}
    body = {"prompt": "relay", "max_tokens": options.tokens}
    with httpx.Client(base_url=options.url, timeout=60) as client:
        jobs = [client.post("/v1/jobs", json=body).raise_for_status().json() for _ in range(options.streams)]
    ready = Event()
    listener = gevent.spawn(subscribe, redis_url, [job["id"] for job in jobs], published, ready)
    ready.wait()
    readers = [gevent.spawn(follow, job["urls"]["stream"], job["id"], received) for job in jobs]
    gevent.joinall(readers, raise_error=True)
    listener.kill()

    # Only events that came live. The beginning of a stream is replayed from the log.
    live = sorted(received[key] - published[key] for key in published if key[1] > options.tokens // 2)
    lag = [1000 * seconds for seconds in live]
    print(f"{options.streams} streams, {len(received)} events, {len(lag)} measured live, in ms:")
    print(
        f"median {statistics.median(lag):.1f}  p90 {lag[int(len(lag) * 0.9)]:.1f}  "
        f"p99 {lag[int(len(lag) * 0.99)]:.1f}  worst {lag[-1]:.1f}"
    )


if __name__ == "__main__":
    main()
