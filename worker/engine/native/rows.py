"""Keys and values of the native decoder's sequences. Each row has its own memory, as much as it needs."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from operator import le

from torch import Tensor

from worker.engine.memory import forget_part, large_zeros, memory_errors

BLOCK_TOKENS = 32
"""Room for tokens is a multiple of this."""

SPARE_SHARE = 4
"""A row that grows gets a quarter more room than it needs, because growing is a copy."""


class RowPointer(ctypes.Structure):
    """The structure `row_states` of decoder.c."""

    _fields_ = (("states", ctypes.c_void_p), ("room", ctypes.c_int64))


class RowStates:
    """See the module. A free row keeps its memory for the next sequence until others need it."""

    def __init__(
        self,
        samples: Sequence[tuple[Tensor, Tensor]],
        max_rows: int,
        max_tokens: int,
        budget_tokens: int | None = None,
    ) -> None:
        """samples: each layer's keys and values of one token, [1, kv_heads, 1, head_dim], all of one shape.

        max_tokens: for one row. budget_tokens: for all rows together, no fewer than max_tokens; None: as many
            as the rows can have.
        """
        keys, _ = samples[0]
        self.dtype = keys.dtype
        self._layers, self._kv_heads, self._head_dim = len(samples), keys.shape[1], keys.shape[3]
        self._max_tokens = max_tokens
        self._budget_tokens = budget_tokens or max_rows * max_tokens
        self.rows = [self._states(0) for _ in range(max_rows)]
        """Each row's keys and values [layers, 2, kv_heads, room, head_dim]."""
        self.rooms = [0] * max_rows
        """How many tokens each row has room for. Free rows may have room, too."""
        self.pointers = (RowPointer * max_rows)()

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether the budget holds rows of these lengths and no others."""
        return sum(map(self._least, lengths)) <= self._budget_tokens

    def make_room(self, lengths: Sequence[int]) -> None:
        """Makes room for `lengths` tokens in the first rows, which keep their tokens. Other rows are free.

        Raises MemoryError where the budget or the machine has no more; then the rows keep their tokens.
        """
        if all(map(le, lengths, self.rooms)):
            return
        if not self.fits(lengths):
            raise MemoryError(f"KV_CACHE_GIB holds {self._budget_tokens} tokens of keys and values")
        for row, tokens in enumerate(lengths):
            if tokens > self.rooms[row]:
                self._grow(row, lengths)

    def release(self, rows: int) -> None:
        """Frees the memory of all but the first `rows` rows."""
        self._shrink(range(rows, len(self.rows)), [0] * len(self.rows))

    def ensure(self, row: int, tokens: int) -> None:
        """Makes sure of room for `tokens` tokens in a row where `make_room` was not called."""
        if tokens > self.rooms[row]:
            self._resize(row, self._least(tokens))

    def exchange(self, row: int, other: int) -> None:
        """Exchanges the sequences of two rows."""
        states, room = self.rows[row], self.rooms[row]
        self._put(row, self.rows[other], self.rooms[other])
        self._put(other, states, room)

    def _least(self, tokens: int) -> int:
        """Returns the least room for `tokens` tokens."""
        return min(self._max_tokens, -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS)

    def _grow(self, row: int, lengths: Sequence[int]) -> None:
        least = self._least(lengths[row])
        needed = least - self.rooms[row]
        used, free = range(len(lengths)), range(len(lengths), len(self.rows))
        if self._left() < needed:
            self._shrink(free, lengths)
        if self._left() < needed:
            self._shrink(used, lengths)
        spare = self._least(lengths[row] + lengths[row] // SPARE_SHARE) - least
        try:
            self._resize(row, least + min(spare, self._left() - needed))
        except MemoryError:
            self._shrink([*free, *used], lengths)
            self._resize(row, least)

    def _left(self) -> int:
        """Returns how many tokens of the budget no row has room for."""
        return self._budget_tokens - sum(self.rooms)

    def _shrink(self, rows: Iterable[int], lengths: Sequence[int]) -> None:
        """Frees the room that rows do not need; all room of free rows."""
        for row in rows:
            least = self._least(lengths[row]) if row < len(lengths) else 0
            if self.rooms[row] > least:
                self._resize(row, least)

    def _resize(self, row: int, room: int) -> None:
        with memory_errors():
            states, old = self._states(room), self.rows[row]
        kept = min(room, self.rooms[row])
        for layer in range(self._layers):
            states[layer, :, :, :kept] = old[layer, :, :, :kept]
            # A row may have most of the budget, so there may be no memory for it twice.
            forget_part(old, old[layer])
        self._put(row, states, room)

    def _put(self, row: int, states: Tensor, room: int) -> None:
        self.rows[row], self.rooms[row] = states, room
        self.pointers[row] = RowPointer(states.data_ptr(), room)

    def _states(self, room: int) -> Tensor:
        return large_zeros(self._layers, 2, self._kv_heads, room, self._head_dim, dtype=self.dtype)


def is_uniform(samples: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Whether all layers' keys and values have one shape and type."""
    return len({(states.shape, states.dtype) for pair in samples for states in pair}) == 1
