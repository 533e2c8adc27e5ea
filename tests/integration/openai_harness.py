"""OpenAI's SDK against a real web server whose worker is played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from openai import OpenAI
from redis import Redis

from harness.waiting import eventually
from tasks import keys
from tests.integration.web_harness import Player, Run

T = TypeVar("T")

HELLO: Any = [{"role": "user", "content": "hello"}]
"""Messages. The SDK's type of them is a union that no literal matches."""


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, in a thread: this one has a running loop once it has used Playwright."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class Calls:
    """Runs calls of the SDK in threads, while the test plays the worker."""

    def __init__(self, sdk: OpenAI, player: Player, redis: Redis) -> None:
        self.sdk = sdk
        self._player = player
        self._redis = redis
        self._pool = ThreadPoolExecutor()
        self._seen: set[str] = set()

    def call(self, function: Callable[..., T], *args: Any, **options: Any) -> Future[T]:
        return self._pool.submit(function, *args, **options)

    def new_jobs(self, count: int = 1) -> list[str]:
        """Waits for the next jobs, and returns their ids in the order of their submits."""
        found: list[str] = []

        def look() -> bool:
            ids = self._redis.zrange(keys.owner_jobs("anonymous"), 0, -1)
            found[:] = [job_id for job_id in map(str, ids) if job_id not in self._seen]
            return len(found) == count

        eventually(look)
        self._seen.update(found)
        return found

    def start(self, count: int = 1) -> list[Run]:
        """Waits for the next jobs, and claims them."""
        return [self.start_one(job_id) for job_id in self.new_jobs(count)]

    def start_one(self, job_id: str) -> Run:
        """Claims a job when it is offered."""
        return self._player.start(job_id)

    def close(self) -> None:
        self._pool.shutdown()
