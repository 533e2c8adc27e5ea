"""Which sequences run, which join next, and which of them have to wait for memory.

A sequence is in one of three places. It *waits*, in the order of arrival. It *joins* while its prompt is
prefilled in chunks, one sequence at a time. It *runs*, and gains a token in every step. Row i of the memory
for keys and values belongs to the i-th running sequence, the next row to the joining one.

All rows share one budget of tokens (`Rows`). When it is used up, the youngest sequence *yields*: it gives up
its row and waits in front of the others, and later all its tokens are prefilled again. Those that run only
grow, so nobody joins until a sequence has left. The oldest sequence never has to yield to others.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

from worker.engine.forward import Rows
from worker.engine.transformers.sequence import SequenceState

GROWTH_TOKENS = 64
"""A sequence joins if all can grow by so many tokens. With less it would yield soon after it has joined."""

GROWTH_SHARE = 8
"""Long sequences shall grow by this share of their length: the longer they are, the more a yield costs."""


class Scheduler:
    """See the module."""

    def __init__(self, rows: Rows, max_num_seqs: int, max_model_len: int, *, pads: bool) -> None:
        """pads: whether prompts that are prefilled together cost as much as the longest."""
        self._rows = rows
        self._max_num_seqs = max_num_seqs
        self._max_model_len = max_model_len
        self._pads = pads
        self._arrivals = itertools.count()
        self._is_full = False
        """Whether nobody may join until a sequence has left."""
        self.waiting: deque[SequenceState] = deque()
        self.joining: SequenceState | None = None
        self.running: list[SequenceState] = []
        self.yields = 0
        """How often a sequence had to give up its row."""

    def sequences(self) -> list[SequenceState]:
        """All of them, in no order."""
        return [*self._holders(), *self.waiting]

    def is_idle(self) -> bool:
        return not (self.running or self.waiting or self.joining)

    def lengths(self, coming: Sequence[SequenceState] = ()) -> list[int]:
        """Tokens of each row that is in use once the running sequences' newest are in the cache.

        coming: sequences to be prefilled as a whole, in the rows after the running ones.
        """
        lengths = [len(sequence.token_ids) for sequence in (*self.running, *coming)]
        return lengths if self.joining is None else [*lengths, self.joining.prefilled]

    def add(self, sequence: SequenceState) -> None:
        """Let a sequence wait. Raises ValueError where no slot is free or the id is known."""
        sequences = self.sequences()
        if any(known.request_id == sequence.request_id for known in sequences):
            raise ValueError(f"request {sequence.request_id} is in the batch already")
        if len(sequences) >= self._max_num_seqs:
            raise ValueError(f"all {self._max_num_seqs} slots are taken")
        sequence.arrival = next(self._arrivals)
        self.waiting.append(sequence)

    def remove(self, request_id: str) -> None:
        """Take a sequence out, wherever it is. An unknown id is no error."""
        for sequence in self.sequences():
            if sequence.request_id == request_id:
                self._take_out(sequence)

    def start_joining(self, budget: int) -> None:
        """Let the first of those that wait join by chunks, if it has more tokens than `budget`."""
        if self.joining is not None or not self.waiting or self._is_full:
            return
        if len(self.waiting[0].token_ids) <= budget:
            return
        if self._fits_beside([], self.waiting[0]):
            self.joining = self.waiting.popleft()

    def take_group(self, budget: int) -> list[SequenceState]:
        """Take the waiting sequences to prefill together, in their order; `joined` lets them run.

        budget: of tokens, padding included; the first may have more.
        """
        group: list[SequenceState] = []
        longest = total = 0
        while self.waiting and not self._is_full:
            length = len(self.waiting[0].token_ids)
            longest, total = max(longest, length), total + length
            cost = longest * (len(group) + 1) if self._pads else total
            if group and (cost > budget or cost > 2 * total):
                break
            if not self._fits_beside(group, self.waiting[0]):
                break
            group.append(self.waiting.popleft())
        return group

    def joined(self, sequences: Sequence[SequenceState]) -> None:
        """Sequences are prefilled, in the rows after the running ones, and run from now on."""
        self.joining = None
        self.running.extend(sequences)

    def put_back(self, sequences: Sequence[SequenceState]) -> None:
        """Let sequences that have no row wait again, before those that came after them."""
        self.waiting = deque(sorted((*self.waiting, *sequences), key=lambda sequence: sequence.arrival))

    def youngest(self) -> SequenceState:
        """The sequence that came last of those that have a row."""
        return max(self._holders(), key=lambda sequence: sequence.arrival)

    def wait_for_memory(self, sequence: SequenceState) -> None:
        """Take a sequence's row and its memory away, and let it wait until another one has left.

        Where there is no other one it may join at once: room for it takes less than growth, which is a copy.
        """
        self._take_out(sequence)
        sequence.prefilled = 0
        self.put_back([sequence])
        self.yields += 1
        self._rows.release(len(self._holders()))
        self._is_full = bool(self._holders())

    def leave(self, sequences: Sequence[SequenceState]) -> None:
        """Free the rows of running sequences; the last of those that stay move there, and the joining one."""
        if not sequences:
            return
        self._is_full = False
        gone = {sequence.request_id for sequence in sequences}
        before, stay = len(self.running), len(self.running) - len(gone)
        movers = [row for row in range(stay, before) if self.running[row].request_id not in gone]
        for row in range(stay):
            if self.running[row].request_id in gone:
                source = movers.pop()
                self.running[row] = self.running[source]
                self._rows.move(source, row, len(self.running[row].token_ids) - 1)
        del self.running[stay:]
        if self.joining is not None:
            self._rows.move(before, stay, self.joining.prefilled)

    def _holders(self) -> list[SequenceState]:
        """Those that have a row."""
        return self.running if self.joining is None else [*self.running, self.joining]

    def _take_out(self, sequence: SequenceState) -> None:
        if sequence in self.running:
            self.leave([sequence])
            return
        self._is_full = False
        if sequence is self.joining:
            self.joining = None
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def _fits_beside(self, group: Sequence[SequenceState], sequence: SequenceState) -> bool:
        """Whether a sequence may join with others beside those that run, with room for all to grow."""
        others = (*self.running, *group)
        if not others:
            return True
        fits = self._rows.fits([self._grown(one) for one in (*others, sequence)])
        self._is_full = not (fits or group)
        return fits

    def _grown(self, sequence: SequenceState) -> int:
        """A sequence's tokens with the growth that there shall be room for."""
        tokens = len(sequence.token_ids)
        grown = tokens + max(GROWTH_TOKENS, tokens // GROWTH_SHARE)
        return min(grown, sequence.max_tokens, self._max_model_len)
