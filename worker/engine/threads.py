"""How many threads an engine computes with: found out while it works.

More threads are faster only while each of them has a core to itself. They wait for one another at the end of
every operation, so that all stand still when one has lost its core to another process: on two cores of which
one was busy, a step of one stream took two to three times as long with two threads as with one. Nobody knows
beforehand what else will run on a machine, so now and then a few steps are computed with more or fewer
threads than the others, and the faster number stays.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

from worker.engine.forward import Answer, Chunk, Forward

PROBE_STEPS = 3
"""So many steps tell whether another number is faster, by their median."""

REMEMBERED_STEPS = 5
"""What they are compared with: the median of so many steps before."""

FIRST_PROBE = 16
LAST_PROBE = 512
"""Steps between probes: few at first, twice as many after each that was in vain."""

GAIN = 0.95
"""A number of threads is left for one that takes less than this share of the time: rounding is no reason."""


def thread_counts(most: int) -> list[int]:
    """Returns the numbers of threads worth trying, falling: all, one fewer, then half as many each time."""
    counts = [most]
    while counts[-1] > 1:
        counts.append(counts[-1] - 1 if len(counts) == 1 else max(1, counts[-1] // 2))
    return counts


class ThreadChoice:
    """The number of threads for steps of about one size."""

    def __init__(self, counts: Sequence[int]) -> None:
        """counts: those to choose from, falling. The first is taken until another is faster."""
        self._counts = counts
        self._index = 0
        self._recent: deque[float] = deque(maxlen=REMEMBERED_STEPS)
        self._probed: list[float] = []
        self._probing: int | None = None
        """The index that is being tried."""
        self._direction = 1
        self._interval = self._until_probe = FIRST_PROBE

    @property
    def count(self) -> int:
        """For the next step."""
        return self._counts[self._index if self._probing is None else self._probing]

    def learn(self, seconds: float) -> None:
        """What the step took that was computed with `count` threads."""
        if self._probing is None:
            self._recent.append(seconds)
            self._until_probe -= 1
            if self._until_probe <= 0:
                self._probing = self._neighbour()
                self._until_probe = self._interval
            return
        self._probed.append(seconds)
        if len(self._probed) < PROBE_STEPS:
            return
        if statistics.median(self._probed) < GAIN * statistics.median(self._recent):
            self._index = self._probing
            self._recent.clear()
            self._recent.extend(self._probed)
            self._interval = FIRST_PROBE
        else:
            self._interval = min(2 * self._interval, LAST_PROBE)
            self._direction = -self._direction
        self._until_probe = self._interval
        self._probing = None
        self._probed = []

    def _neighbour(self) -> int | None:
        """The next index in the direction that probes go; at an end, in the other one."""
        for direction in (self._direction, -self._direction):
            index = self._index + direction
            if 0 <= index < len(self._counts):
                self._direction = direction
                return index
        return None


class FittingThreads:
    """A forward whose passes are computed with as many threads as are fastest at present."""

    def __init__(
        self,
        forward: Forward,
        most: int,
        set_threads: Callable[[int], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """most: threads. set_threads: makes the forward compute with so many. clock: in seconds."""
        self.pads, self.draws = forward.pads, forward.draws
        self.inner = forward
        self._counts = thread_counts(most)
        self._set_threads = set_threads
        self._clock = clock
        self._choices: dict[int, ThreadChoice] = {}
        """By the number of bits in the number of tokens: a step of many tokens gains more from threads."""

    def run(self, chunks: Sequence[Chunk]) -> Answer:
        size = sum(len(chunk.token_ids) for chunk in chunks).bit_length()
        choice = self._choices.get(size)
        if choice is None:
            choice = self._choices[size] = ThreadChoice(self._counts)
        self._set_threads(choice.count)
        began = self._clock()
        answer = self.inner.run(chunks)
        choice.learn(self._clock() - began)
        return answer

    @property
    def progress(self) -> int:
        return self.inner.progress

    def fits(self, lengths: Sequence[int]) -> bool:
        return self.inner.fits(lengths)

    def make_room(self, lengths: Sequence[int]) -> None:
        self.inner.make_room(lengths)

    def release(self, rows: int) -> None:
        self.inner.release(rows)

    def move(self, source: int, target: int, tokens: int) -> None:
        self.inner.move(source, target, tokens)

    def clear(self, row: int) -> None:
        self.inner.clear(row)
