"""Messages on stderr while the server does not answer."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from client.errors import ClientError, UnreachableError

FIRST_NOTICE_SECONDS = 1.0
"""A server that takes longer for an answer is reported: people lose confidence after about two seconds."""

NOTICE_PAUSE_SECONDS = 5.0
"""The time between two notices. It is also the longest pause between two tries of the client."""


class Notices:
    """Says why nothing happens, first after a second, then every few seconds. Threads may share it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._silence = self._line = f"{url}: no answer yet; waiting"
        self._told_at = -inf
        self._has_answered = False
        self._lock = threading.Lock()

    def retrying(self, error: ClientError) -> None:
        """A try failed with `error`, and the client will retry."""
        is_unknown = isinstance(error, UnreachableError) and not self._has_answered
        hint = " (is the server running?)" if is_unknown else ""
        self._line = f"{error}{hint}; trying again"
        self._tell()

    @contextmanager
    def expecting(self, silence: str | None = None) -> Iterator[None]:
        """Watches a call, because the server may accept the connection and then not answer.

        silence: what to say then, instead of the usual.
        """
        if silence is not None:
            self._line, self._told_at = f"{self._url}: {silence}", -inf
        answered = threading.Event()
        threading.Thread(target=self._report_silence, args=(answered,), daemon=True).start()
        try:
            yield
            self._has_answered = True
        finally:
            answered.set()
            self._line = self._silence

    def _report_silence(self, answered: threading.Event) -> None:
        pause = FIRST_NOTICE_SECONDS
        while not answered.wait(pause):
            self._tell()
            pause = NOTICE_PAUSE_SECONDS

    def _tell(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._told_at < NOTICE_PAUSE_SECONDS:
                return
            self._told_at = now
        say(self._line)


def say(line: str) -> None:
    """Prints a line on stderr."""
    print(line, file=sys.stderr, flush=True)
