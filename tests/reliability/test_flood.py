"""The worst traffic that is allowed, scaled down. It gets 429 and 503 and does not affect other owners."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from client import Client
from harness.waiting import TIMEOUT_SECONDS, eventually
from tests.chaos.fleet import Fleet

MEMORY_BYTES = 64 * 1024 * 1024
SENDERS = 4
PROMPT = "w " * 500_000
"""The longest prompt that fits in a body. It is too long for the model."""

SHARE_JOBS = MEMORY_BYTES // 2 // len(PROMPT)
"""About how many such jobs an owner may have at a time."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path, 1, {"API_KEYS": "ada:key-a,bob:key-b"})
    with Redis.from_url(running.redis_url) as redis:
        redis.config_set("maxmemory", MEMORY_BYTES)
    yield running
    running.stop()


class Flood:
    """Threads that submit without pause. `statuses` counts the answers."""

    def __init__(self, url: str, key: str, body: dict[str, Any]) -> None:
        self.statuses: Counter[int] = Counter()
        self._stop = threading.Event()
        self._url, self._body = f"{url}/v1/jobs", body
        self._headers = {"Authorization": f"Bearer {key}"}
        self._threads = [threading.Thread(target=self._send) for _ in range(SENDERS)]

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        with httpx.Client(headers=self._headers, timeout=TIMEOUT_SECONDS) as http:
            while not self._stop.is_set():
                answer = http.post(self._url, json=self._body)
                self.statuses[answer.status_code] += 1
                if answer.status_code != 202:
                    assert int(answer.headers["Retry-After"]) >= 1
                    self._stop.wait(0.1)


def test_a_flood_of_prompts_that_are_too_long(fleet: Fleet) -> None:
    """Their prompts are removed from their records, so that their owner's share is free again."""
    body = {"prompt": PROMPT, "max_tokens": 1}
    with (
        Redis.from_url(fleet.redis_url) as redis,
        Client(fleet.web.url, "key-b") as bob,
        Flood(fleet.web.url, "key-a", body) as flood,
    ):
        eventually(lambda: flood.statuses[429] > 0)
        for _ in range(20):
            assert bob.wait(bob.submit("a b", max_tokens=2).id, TIMEOUT_SECONDS).status == "completed"
        # More than fit in memory.
        eventually(lambda: flood.statuses[202] > 3 * SHARE_JOBS, timeout=2 * TIMEOUT_SECONDS)
        memory = redis.info("memory")
        assert int(memory["used_memory_peak"]) < MEMORY_BYTES
        assert int(redis.info("stats")["evicted_keys"]) == 0
    assert set(flood.statuses) <= {202, 429}
    assert [worker.process.poll() for worker in fleet.workers] == [None]


def test_a_flood_of_jobs_that_wait(fleet: Fleet) -> None:
    """Jobs of one owner, as large as possible, that never run leave enough memory for other owners."""
    body = {"prompt": "w " * 4000 + "x" * 900_000, "max_tokens": 1, "priority": "low", "n": 8}
    with (
        Client(fleet.web.url, "key-b") as bob,
        Flood(fleet.web.url, "key-a", body) as flood,
    ):
        eventually(lambda: flood.statuses[429] > SENDERS)
        for _ in range(20):
            assert bob.wait(bob.submit("a b", max_tokens=2).id, TIMEOUT_SECONDS).status == "completed"
    assert set(flood.statuses) <= {202, 429, 503}
