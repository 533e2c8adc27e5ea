"""Keys and values of the native decoder's sequences: each row has memory of its own, as much as it needs."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from torch import Tensor

from worker.engine.memory import large_zeros

BLOCK_TOKENS = 32
"""Room is a multiple of it."""

SPARE_SHARE = 4
"""Room grows by one such share more than needed, as growing is a copy."""


class RowPointer(ctypes.Structure):
    """`row_states` of decoder.c."""

    _fields_ = (("states", ctypes.c_void_p), ("room", ctypes.c_int64))


class RowStates:
    """See the module. A row that is free keeps its memory for the next sequence."""

    def __init__(self, samples: Sequence[tuple[Tensor, Tensor]], max_rows: int, max_tokens: int) -> None:
        """samples: each layer's keys and values of some token [1, kv_heads, 1, head_dim], all alike."""
        keys, _ = samples[0]
        self.dtype = keys.dtype
        self._layers, self._kv_heads, self._head_dim = len(samples), keys.shape[1], keys.shape[3]
        self._max_tokens = max_tokens
        self.rows = [self._states(0) for _ in range(max_rows)]
        """Each row's [layers, 2, kv_heads, room, head_dim], keys and values."""
        self.pointers = (RowPointer * max_rows)()

    def make_room(self, row: int, tokens: int) -> None:
        """Have room for so many tokens at least. The row's tokens stay."""
        old = self.rows[row]
        room = old.shape[3]
        if tokens <= room:
            return
        blocks = -(-(tokens + tokens // SPARE_SHARE) // BLOCK_TOKENS)
        grown = self._states(min(self._max_tokens, blocks * BLOCK_TOKENS))
        grown[:, :, :, :room] = old
        self._put(row, grown)

    def exchange(self, row: int, other: int) -> None:
        """The rows' sequences change places."""
        states = self.rows[row]
        self._put(row, self.rows[other])
        self._put(other, states)

    def _put(self, row: int, states: Tensor) -> None:
        self.rows[row] = states
        self.pointers[row] = RowPointer(states.data_ptr(), states.shape[3])

    def _states(self, room: int) -> Tensor:
        return large_zeros(self._layers, 2, self._kv_heads, room, self._head_dim, dtype=self.dtype)


def is_uniform(samples: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Whether all layers' keys and values have one shape and type."""
    return len({(states.shape, states.dtype) for pair in samples for states in pair}) == 1
