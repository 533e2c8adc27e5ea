"""Waiting for events: with a deadline, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""Far longer than anything takes; a test that gets here has failed."""

POLL_SECONDS = 0.01


def eventually(look: Callable[[], T], patience: float = PATIENCE_SECONDS) -> T:
    """What `look` returns once it is truthy. Raises AssertionError at the deadline."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < deadline, f"still {found!r} after {patience} s"
        time.sleep(POLL_SECONDS)
    return found
