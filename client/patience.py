"""How long, and how often, to try again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from client.errors import ClientError

OnTrouble = Callable[[ClientError], None]
"""Is told of each failure after which there will be another try."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0


class Patience:
    """Pauses between tries: longer each time, scattered, and only so many seconds in all."""

    def __init__(self, seconds: float, on_trouble: OnTrouble | None = None) -> None:
        self._seconds = seconds
        self._on_trouble = on_trouble
        self.renew()

    def renew(self) -> None:
        """Something worked: the next trouble is a new one."""
        self._pause = FIRST_PAUSE_SECONDS
        self._deadline: float | None = None

    def pause(self, error: ClientError, at_least: float = 0.0) -> bool:
        """Sleep; False, at once, where the wait would go beyond what is left.

        error: why another try is needed. at_least: seconds, as a server asked for.
        """
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._seconds
        # Scattered, so that a thousand clients of a restarted server do not come all at once.
        seconds = max(at_least, self._pause * random.uniform(0.5, 1.0))
        if now + seconds > self._deadline:
            return False
        if self._on_trouble is not None:
            self._on_trouble(error)
        time.sleep(seconds)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        return True
