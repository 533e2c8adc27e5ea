"""Interrupts greenlets that wait for something from their client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent


class Interruptible:
    """Knows the greenlets that are inside `waiting`, and can interrupt them."""

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
        """Raises an error in each of them, soon."""
        loop = gevent.get_hub().loop
        for greenlet in self._greenlets:
            loop.run_callback(self._throw, greenlet, make_error())

    def _throw(self, greenlet: gevent.Greenlet, error: Exception) -> None:
        # Runs in gevent's hub. A greenlet that got what it waited for is elsewhere by now.
        if greenlet in self._greenlets:
            greenlet.throw(error)
