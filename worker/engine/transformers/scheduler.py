"""Decides which sequences run, which join them next, and which have to wait for memory.

A sequence is in one of three places:

- `waiting`, in the order of arrival;
- `joining`, while its prompt is prefilled: several short prompts at once, or one long prompt in chunks, over
  several steps;
- `running`, where it gains a token in every step.

`schedule` moves sequences from `waiting` to `joining`, `start_running` from there to `running`. `finish` and
`abort` let them leave. `preempt` and `put_back` move them back to `waiting`.

Row i of the memory for keys and values belongs to the i-th running sequence, the rows after these to the
joining ones. All rows share one budget of tokens (`Rows`). When it is used up, the youngest sequence is
preempted: it gives up its row and waits in front of the others, and later all its tokens are prefilled again.
Running sequences only grow, so no sequence joins until another one has left. The oldest sequence is never
preempted for the sake of others.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

from worker.engine.forward import Rows
from worker.engine.transformers.sequence import SequenceState

GROWTH_TOKENS = 64
"""A sequence joins if all can grow by this many tokens. With less it would soon be preempted again."""

GROWTH_SHARE = 8
"""Long sequences need room for this share of their length: the longer, the more it costs to prefill again."""


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
        """Whether no sequence may join until another one has left."""
        self.waiting: deque[SequenceState] = deque()
        self.joining: list[SequenceState] = []
        self.running: list[SequenceState] = []
        self.preemptions = 0
        """How often a sequence had to give up its row."""

    def sequences(self) -> list[SequenceState]:
        """Returns all sequences, in no order."""
        return [*self.running, *self.joining, *self.waiting]

    def is_idle(self) -> bool:
        return not (self.running or self.joining or self.waiting)

    def lengths(self, joining: Sequence[int] | None = None) -> list[int]:
        """Returns the tokens of each row in use, once the running sequences' newest tokens are in the cache.

        joining: tokens of the rows of joining sequences; by default what the cache has of them.
        """
        if joining is None:
            joining = [sequence.prefilled for sequence in self.joining if sequence.prefilled]
        return [*(len(sequence.token_ids) for sequence in self.running), *joining]

    def add(self, sequence: SequenceState) -> None:
        """Lets a sequence wait. Raises ValueError where no slot is free or the id is known."""
        sequences = self.sequences()
        if any(known.request_id == sequence.request_id for known in sequences):
            raise ValueError(f"request {sequence.request_id} is in the batch already")
        if len(sequences) >= self._max_num_seqs:
            raise ValueError(f"all {self._max_num_seqs} slots are taken")
        sequence.arrival = next(self._arrivals)
        self.waiting.append(sequence)

    def schedule(self, budget: int) -> None:
        """Moves the waiting sequences that are to be prefilled in this step to `joining`.

        These are as many as fit into memory and `budget`, or the first one alone, if it is longer than that
        and is to be prefilled in chunks. While one joins in chunks, no other sequence joins.

        budget: tokens, padding included.
        """
        if self.joining or self._is_full:
            return
        longest = total = 0
        while self.waiting:
            length = len(self.waiting[0].token_ids)
            longest, total = max(longest, length), total + length
            cost = longest * (len(self.joining) + 1) if self._pads else total
            if self.joining and (cost > budget or cost > 2 * total):
                return
            if not self._fits(self.waiting[0]):
                return
            self.joining.append(self.waiting.popleft())
            if length > budget:
                return

    def start_running(self, sequences: Sequence[SequenceState]) -> None:
        """Lets the first of the joining sequences run: all their tokens but the newest are in the cache."""
        del self.joining[: len(sequences)]
        self.running.extend(sequences)

    def put_back(self, sequences: Sequence[SequenceState]) -> None:
        """Lets joining sequences wait again, before those that came after them."""
        self.joining = [one for one in self.joining if one not in sequences]
        self._wait(sequences)

    def preempt_youngest(self) -> None:
        """Takes the row of the youngest sequence that the cache has tokens of."""
        self.put_back([sequence for sequence in self.joining if not sequence.prefilled])
        self.preempt(max((*self.running, *self.joining), key=lambda sequence: sequence.arrival))

    def preempt(self, sequence: SequenceState) -> None:
        """Takes a sequence's row and its memory away, and lets it wait until another one has left.

        Where there is no other one it may join at once: room for it takes less than growth, which is a copy.
        """
        self._take_out(sequence)
        sequence.prefilled = 0
        self._wait([sequence])
        self.preemptions += 1
        self._rows.release(len(self.running) + len(self.joining))
        self._is_full = bool(self.running or self.joining)

    def finish(self, sequences: Sequence[SequenceState]) -> None:
        """Frees the rows of running sequences. The last rows in use move there, to leave no holes."""
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
        for index, sequence in enumerate(self.joining):
            self._rows.move(before + index, stay + index, sequence.prefilled)

    def abort(self, request_id: str) -> None:
        """Takes a sequence out, wherever it is. An unknown id is no error."""
        for sequence in self.sequences():
            if sequence.request_id == request_id:
                self._take_out(sequence)

    def _take_out(self, sequence: SequenceState) -> None:
        self._is_full = False
        if sequence in self.running:
            self.finish([sequence])
        elif sequence in self.joining:
            self.joining.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def _wait(self, sequences: Sequence[SequenceState]) -> None:
        self.waiting = deque(sorted((*self.waiting, *sequences), key=lambda sequence: sequence.arrival))

    def _fits(self, sequence: SequenceState) -> bool:
        """Whether a sequence may join beside those that have a row, with room for all to grow."""
        others = (*self.running, *self.joining)
        if not others:
            return True
        fits = self._rows.fits([self._grown(one) for one in (*others, sequence)])
        self._is_full = not (fits or self.joining)
        return fits

    def _grown(self, sequence: SequenceState) -> int:
        """Returns a sequence's tokens, with the growth that there has to be room for."""
        tokens = len(sequence.token_ids)
        grown = tokens + max(GROWTH_TOKENS, tokens // GROWTH_SHARE)
        return min(grown, sequence.max_tokens, self._max_model_len)
