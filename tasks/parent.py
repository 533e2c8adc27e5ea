"""Ends a process with the one that started it, even where that was killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Have this process sent a signal when the process `parent`, which started it, is gone.

    Elsewhere than on Linux only if it is gone by now.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_with_make() -> None:
    """The same with the make that runs this process, where a recipe has set MAKE_PID.

    make passes a SIGTERM on, but cannot when it is killed itself.
    """
    make = os.environ.pop("MAKE_PID", None)
    if make is not None:
        end_with_parent(int(make))
