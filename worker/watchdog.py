"""Ends the process when its engine thread or its flusher thread hangs or has died.

A thread that is slow but moves on is never ended, and neither is a process that was paused (SIGSTOP, a
frozen container).
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from worker.ending import end_process

LOOK_SECONDS = 1.0
"""The time between two looks at the threads. With a short time-out there are more looks."""

LOOKS_PER_TIMEOUT = 4


class Activity:
    """Tells the watchdog whether a thread waits for work or makes progress."""

    def __init__(self) -> None:
        self._count = 0
        self._is_idle = True

    def moved_on(self) -> None:
        """Notes that the thread has work and makes progress with it."""
        self._is_idle = False
        self._count += 1

    @contextmanager
    def idle(self) -> Iterator[None]:
        """A context for a wait for work, which may take any time."""
        self._is_idle = True
        try:
            yield
        finally:
            self.moved_on()

    @property
    def progress(self) -> int | None:
        """A number that changes when the thread moves on; None while it waits for work. For any thread."""
        return None if self._is_idle else self._count


class Stillness:
    """Measures for how long something has made no progress.

    From one look to the next, at most `longest_gap` seconds count. A look that comes later was itself
    delayed by a pause of the whole process.
    """

    def __init__(
        self,
        progress: Callable[[], Hashable],
        longest_gap: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """progress: changes with every advance; None where there is nothing to do."""
        self._progress = progress
        self._longest_gap = longest_gap
        self._clock = clock
        self._seen: Hashable = None
        self._seconds = 0.0
        self._looked_at = clock()

    def look(self) -> float:
        """Returns for how many seconds there has been no progress."""
        now, progress = self._clock(), self._progress()
        if progress is not None and progress == self._seen:
            self._seconds += min(now - self._looked_at, self._longest_gap)
        else:
            self._seen, self._seconds = progress, 0.0
        self._looked_at = now
        return self._seconds


@dataclass(frozen=True, slots=True)
class Watched:
    """A thread to watch.

    name, limit: for the log; the limit is `timeout_seconds`, how long it may stand still, in words.
    progress: see `Stillness`.
    is_alive: whether it runs, or has ended as it should.
    """

    name: str
    progress: Callable[[], Hashable]
    timeout_seconds: float
    limit: str
    is_alive: Callable[[], bool]


class Watchdog:
    """A thread that watches others, see the module."""

    def __init__(self, watched: Sequence[Watched]) -> None:
        shortest = min(one.timeout_seconds for one in watched)
        self._period = min(LOOK_SECONDS, shortest / LOOKS_PER_TIMEOUT)
        self._watched = [(one, Stillness(one.progress, 2 * self._period)) for one in watched]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stops looking. For any thread."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._period):
            for one, stillness in self._watched:
                self._look(one, stillness)

    def _look(self, one: Watched, stillness: Stillness) -> None:
        if not one.is_alive():
            if not self._stopped.is_set():
                end_process("the %s has died, the worker ends", one.name)
        elif stillness.look() > one.timeout_seconds:
            if sys.__stderr__ is not None:
                faulthandler.dump_traceback(sys.__stderr__)
            end_process("the %s stood still for longer than %s, the worker ends", one.name, one.limit)
