"""Runs calls that would stop all greenlets, because they wait in the operating system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent.util import wrap_errors


def in_thread(call: Callable[[], Any]) -> Any:
    """Calls a function in one of gevent's threads, and returns its result. Raises what it raises."""
    # An error that leaves the thread would be printed as well.
    result = gevent.get_hub().threadpool.apply(wrap_errors(Exception, call))
    if isinstance(result, Exception):
        raise result
    return result
