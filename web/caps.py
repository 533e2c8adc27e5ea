"""A cap on the requests that an owner holds open in this process: streams, and calls that wait for a job.

Each takes a greenlet, a connection and memory of this process for as long as its job takes, and the cap
protects those. So the count is kept here and not in Redis: N web processes let an owner have N times as many,
a stream needs no round trip to Redis for it, and a process that is killed leaves no count behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from web.errors import TooManyStreamsError

RETRY_SECONDS = 5
"""A stream ends when its job does, so places become free all the time."""


class StreamCap:
    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    @contextmanager
    def hold(self, owner: str) -> Iterator[None]:
        """Counts one request of `owner` while the block runs. Raises TooManyStreamsError."""
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
