"""Makes a process end with the one that started it, from its first moment on."""

from __future__ import annotations

import os
import pkgutil
import signal
from collections.abc import Callable
from typing import Any

from tasks.parent import end_with_parent


class Bound:
    """The target of a process that is to end with the process that makes this object.

    A spawned process unpickles its target before its arguments. So it is bound before it imports the
    arguments' classes, which takes seconds with vLLM.
    """

    def __init__(self, function: Callable[..., Any], parent: int | None = None) -> None:
        """function: found by its module and qualified name. parent: a pid; None: this process."""
        self._function = function
        self._parent = parent or os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _bound, (self._parent, self._function.__module__, self._function.__qualname__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        end_with_parent(self._parent, signal.SIGKILL)
        return self._function(*args, **kwargs)


def _bound(parent: int, module: str, name: str) -> Bound:
    end_with_parent(parent, signal.SIGKILL)
    return Bound(pkgutil.resolve_name(f"{module}:{name}"), parent)
