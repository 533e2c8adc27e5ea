"""Ends a process together with the process that started it, even if that one was killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Asks for a signal to this process when the process `parent`, which started it, has ended.

    On other systems than Linux the signal comes only if `parent` has ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_with_make() -> None:
    """Does the same for the `make` that runs this process, if a recipe has set MAKE_PID.

    make passes a SIGTERM on, but cannot do so if it is killed itself.
    """
    make = os.environ.pop("MAKE_PID", None)
    if make is not None:
        end_with_parent(int(make))
