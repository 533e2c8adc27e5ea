"""Waits for events: with a deadline, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_SECONDS = 30.0
"""Far longer than anything takes. A test that waits this long has failed."""

POLL_SECONDS = 0.01


def eventually(look: Callable[[], T], timeout: float = TIMEOUT_SECONDS) -> T:
    """Calls `look` until it returns something truthy; returns that. Raises AssertionError at the deadline."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, f"still {found!r} after {timeout} s"
        time.sleep(POLL_SECONDS)
    return found
