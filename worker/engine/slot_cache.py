"""The keys and values of all sequences in the batch: a row per slot, a sequence's tokens from position 0 on.

transformers' own caches keep all rows in step, and its paged cache comes with a scheduler, a thread and
sampling of its own. Here every row is at its own position, and models run on it unchanged: `Cache` is what
they call.

Rows 0..n-1 are in use, without holes, so that a pass reads them as a view and nothing is gathered. The room
for tokens is kept tight, so that the view mostly has no holes either: products would copy one with holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from worker.engine.memory import large_zeros

BLOCK_TOKENS = 32
"""Room for tokens is a multiple of it."""

SPARE_SHARE = 8
"""Room grows by one such share more than needed: each growth is a copy, each spare token is read in vain."""

READ_IN_VAIN = 1.5
"""Up to so many times the tokens needed are read for the sake of a view without holes."""


class SlotStates:
    """The tensors. Memory grows with need: by rows up to max_rows and by tokens up to max_tokens."""

    def __init__(self, samples: Sequence[tuple[Tensor, Tensor]], max_rows: int, max_tokens: int) -> None:
        """samples: each layer's keys and values of some token [1, heads, 1, head_dim]."""
        self.max_rows = max_rows
        self.max_tokens = max_tokens
        self.rows = self.tokens = 0
        """What there is room for."""
        self.layers = [
            (keys[:0, :, :0].contiguous(), values[:0, :, :0].contiguous()) for keys, values in samples
        ]
        """Each layer's keys and values [rows, heads, tokens, head_dim]."""

    def make_room(self, rows: int, tokens: int) -> None:
        """Have so many rows and tokens at least, in larger tensors where need be."""
        if rows > self.rows:
            rows = min(self.max_rows, max(rows, 2 * self.rows))
        rows, tokens = max(rows, self.rows), self._room_for(tokens)
        if (rows, tokens) == (self.rows, self.tokens):
            return
        for index, (keys, values) in enumerate(self.layers):
            self.layers[index] = (_grown(keys, rows, tokens), _grown(values, rows, tokens))
        self.rows, self.tokens = rows, tokens

    def readable(self, tokens: int) -> int:
        """How many tokens to read of rows that have up to so many: all the room, if that is not much more."""
        room = self._room_for(tokens)
        return room if room <= READ_IN_VAIN * tokens else tokens

    def _room_for(self, tokens: int) -> int:
        if tokens <= self.tokens:
            return self.tokens
        blocks = -(-(tokens + tokens // SPARE_SHARE) // BLOCK_TOKENS)
        return min(self.max_tokens, blocks * BLOCK_TOKENS)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Bring a row's first tokens to another row."""
        for layer in self.layers:
            for states in layer:
                states[target, :, :tokens] = states[source, :, :tokens]

    def clear(self, row: int) -> None:
        """Forget a row."""
        for layer in self.layers:
            for states in layer:
                states[row].zero_()


def _grown(states: Tensor, rows: int, tokens: int) -> Tensor:
    old_rows, heads, old_tokens, head_dim = states.shape
    shape = (rows, heads, tokens, head_dim)
    grown = large_zeros(*shape, dtype=states.dtype) if states.is_cpu else states.new_zeros(shape)
    grown[:old_rows, :, :old_tokens] = states
    return grown


@dataclass(frozen=True, slots=True)
class Window:
    """What one forward pass writes and reads.

    first_row: rows first_row, first_row + 1, … are the pass' batch.
    positions: [rows, query], each token's place in its sequence.
    length: how many keys each row reads; more than its largest position.
    """

    first_row: int
    positions: Tensor
    length: int

    @property
    def rows(self) -> slice:
        return slice(self.first_row, self.first_row + self.positions.shape[0])


class SlotCache(Cache):
    """The states as transformers' models write and read them: where, `open` says."""

    def __init__(self, states: SlotStates) -> None:
        self.states = states
        super().__init__(layers=[_SlotLayer(self, index) for index in range(len(states.layers))])
        self.open(Window(0, torch.zeros(0, 1, dtype=torch.long), 0))

    def open(self, window: Window) -> None:
        """Make room for a forward pass."""
        self.window = window
        device = window.positions.device
        self.row_index = torch.arange(window.rows.start, window.rows.stop, device=device)[:, None]
        self.states.make_room(window.rows.stop, window.length)


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer."""

    is_sliding = False

    def __init__(self, cache: SlotCache, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache
        self._index = index
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """There is nothing left to do."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens' states [rows, heads, query, head_dim]; returns all that the rows may read."""
        cache, window = self._cache, self._cache.window
        keys, values = cache.states.layers[self._index]
        for states, new in ((keys, key_states), (values, value_states)):
            states[cache.row_index, :, window.positions] = new.transpose(1, 2)
        return keys[window.rows, :, : window.length], values[window.rows, :, : window.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        return self._cache.window.length, 0

    def get_seq_length(self) -> int:
        window = self._cache.window
        return window.length - window.positions.shape[1]

    def get_max_length(self) -> int:
        return self._cache.states.max_tokens
