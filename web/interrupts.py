"""Greenlets that wait for something from their client, and may be told to stop waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent


class Interruptible:
    """The greenlets that are inside of `waiting` at this moment."""

    def __init__(self) -> None:
        self._greenlets: set[gevent.Greenlet] = set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        greenlet = gevent.getcurrent()
        self._greenlets.add(greenlet)
        try:
            yield
        finally:
            self._greenlets.discard(greenlet)

    def interrupt(self, make_error: Callable[[], Exception]) -> None:
        """Raise an error in each of them, soon."""
        loop = gevent.get_hub().loop
        for greenlet in self._greenlets:
            loop.run_callback(self._throw, greenlet, make_error())

    def _throw(self, greenlet: gevent.Greenlet, error: Exception) -> None:
        # Runs in the hub. What the greenlet waited for may have come since: then it is somewhere else by now.
        if greenlet in self._greenlets:
            greenlet.throw(error)
