"""Finds out, while an engine works, how many threads are fastest.

More threads are faster only while each has a core to itself. They wait for one another at the end of every
operation, so all stand still when one has lost its core to another process. With two cores, one of them busy,
a step of one stream took two to three times as long with two threads as with one. It is not known in advance
what else will run on a machine. So a few steps now and then are computed with more or fewer threads than the
others, and the faster number stays.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

from worker.engine.forward import Answer, Chunk, Forward

PROBE_STEPS = 3
"""How many steps are computed with another number of threads. Their median is compared."""

REMEMBERED_STEPS = 5
"""How many steps before a probe it is compared with, by their median."""

FIRST_PROBE = 16
LAST_PROBE = 512
"""Steps between probes: few at first, twice as many after each probe that was not faster."""

GAIN = 0.95
"""Another number of threads has to take less than this share of the time, so that noise changes nothing."""


def thread_counts(most: int) -> list[int]:
    """Returns the numbers of threads worth trying, falling: all, one fewer, then half as many each time."""
    counts = [most]
    while counts[-1] > 1:
        counts.append(counts[-1] - 1 if len(counts) == 1 else max(1, counts[-1] // 2))
    return counts


class ThreadChoice:
    """The number of threads for steps of about one size."""

    def __init__(self, counts: Sequence[int]) -> None:
        """counts: those to choose from, in falling order. The first is used until another is faster."""
        self._counts = counts
        self._index = 0
        self._recent: deque[float] = deque(maxlen=REMEMBERED_STEPS)
        self._probed: list[float] = []
        self._probing: int | None = None
        """The index that is being tried; None between probes."""
        self._direction = 1
        self._interval = self._until_probe = FIRST_PROBE

    @property
    def count(self) -> int:
        """How many threads the next step has."""
        return self._counts[self._index if self._probing is None else self._probing]

    def learn(self, seconds: float) -> None:
        """Learns how long the step took that was computed with `count` threads."""
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
        """Returns the next index in the direction of the last probe; at an end, in the other direction."""
        for direction in (self._direction, -self._direction):
            index = self._index + direction
            if 0 <= index < len(self._counts):
                self._direction = direction
                return index
        return None


class FittingThreads:
    """A forward whose passes are computed with as many threads as are fastest at the moment."""

    def __init__(
        self,
        forward: Forward,
        most: int,
        set_threads: Callable[[int], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """most: threads. set_threads: sets how many threads the forward computes with. clock: in seconds."""
        self.pads, self.draws = forward.pads, forward.draws
        self.inner = forward
        self._counts = thread_counts(most)
        self._set_threads = set_threads
        self._clock = clock
        self._choices: dict[int, ThreadChoice] = {}
        """By the bit length of the number of tokens: a step of many tokens gains more from threads."""

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
