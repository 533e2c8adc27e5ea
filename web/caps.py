"""How many requests an owner may hold open in this process: streams, and calls that wait for a job's end.

Each holds a greenlet, a connection and memory of this process for as long as its job takes, and those are
what the cap protects. So it is counted here and not in Redis: N web processes let an owner have N times as
many, no process has to ask for leave, and one that is killed leaves no count behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from web.errors import TooManyStreamsError

RETRY_SECONDS = 5
"""Streams end when their jobs do: not within a moment, but all the time."""


class StreamCap:
    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, owner: str) -> Iterator[None]:
        """Count one request of `owner` while the block runs. Raises TooManyStreamsError."""
        if self._held[owner] >= self._most:
            detail = f"{self._most} streams and waiting calls of this key are open here; close some first"
            raise TooManyStreamsError(detail, retry_after=RETRY_SECONDS)
        self._held[owner] += 1
        try:
            yield
        finally:
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]
