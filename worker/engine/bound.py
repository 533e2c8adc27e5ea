"""Processes that end with the process that started them, from their first moment on."""

from __future__ import annotations

import ctypes
import os
import pkgutil
import signal
import sys
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Bound:
    """The target of a process, bound to the process that makes this object and starts it.

    A spawned process unpickles its target before its arguments: it is bound before it imports their classes,
    which takes seconds with vLLM.
    """

    def __init__(self, function: Callable[..., Any], parent: int | None = None) -> None:
        """function: one that a module, or a class in it, has under its own name. parent: its pid, or None."""
        self._function = function
        self._parent = parent or os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _bound, (self._parent, self._function.__module__, self._function.__qualname__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _end_with(self._parent)
        return self._function(*args, **kwargs)


def _bound(parent: int, module: str, name: str) -> Bound:
    _end_with(parent)
    return Bound(pkgutil.resolve_name(f"{module}:{name}"), parent)


def _end_with(parent: int) -> None:
    """Be killed when the parent is gone, even if it was killed itself. Only Linux can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # It was gone before.
