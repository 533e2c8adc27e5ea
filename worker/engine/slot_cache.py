"""The keys and values of all sequences in the batch: a row per slot, a sequence's tokens from position 0 on.

transformers' own caches keep all rows in step, and its paged cache comes with a scheduler, a thread and
sampling of its own. Here every row is at its own position, and models run on it unchanged: `Cache` is what
they call.

Rows 0..n-1 are in use, without holes, so that a pass reads them as a view and nothing is gathered. The room
for tokens is kept tight, so that the view mostly has no holes either: products would copy one with holes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK_TOKENS = 32
"""Room for tokens is a multiple of it."""

SPARE_SHARE = 8
"""Room grows by one such share more than needed: each growth is a copy, each spare token is read in vain."""

READ_IN_VAIN = 1.5
"""Up to so many times the tokens needed are read for the sake of a view without holes."""


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
    """See the module. `open` says where the next forward pass writes and reads.

    Memory grows with need: by rows up to max_rows and by tokens up to max_tokens, which bound it.
    """

    def __init__(self, layers: int, max_rows: int, max_tokens: int) -> None:
        self.max_rows = max_rows
        self.max_tokens = max_tokens
        self.rows = self.tokens = 0
        """What there is room for."""
        self._slot_layers = [_SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self._slot_layers))
        self.open(Window(0, torch.zeros(0, 1, dtype=torch.long), 0))

    def open(self, window: Window) -> None:
        """Make room for a forward pass."""
        self.window = window
        device = window.positions.device
        self.row_index = torch.arange(window.rows.start, window.rows.stop, device=device)[:, None]
        if window.rows.stop > self.rows:
            self.rows = min(self.max_rows, max(window.rows.stop, 2 * self.rows))
        self.tokens = self._room_for(window.length)

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
        """Bring a row's first tokens to another row, whose sequence has left."""
        for layer in self._slot_layers:
            for states in layer.states():
                states[target, :, :tokens] = states[source, :, :tokens]

    def clear(self, row: int) -> None:
        """Forget a row that may hold NaN: masking multiplies by 0, and 0 · NaN spoils the next sequence."""
        for layer in self._slot_layers:
            for states in layer.states():
                states[row].zero_()


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, [rows, heads, tokens, head_dim] each."""

    is_sliding = False

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache

    def states(self) -> list[Tensor]:
        return [states for states in (self.keys, self.values) if states is not None]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_zeros(0, key_states.shape[1], 0, key_states.shape[3])
        self.values = value_states.new_zeros(0, value_states.shape[1], 0, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens' states [rows, heads, query, head_dim]; returns all that the rows may read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.keys = self._written(self.keys, key_states)
        self.values = self._written(self.values, value_states)
        window = self._cache.window
        return self.keys[window.rows, :, : window.length], self.values[window.rows, :, : window.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        return self._cache.window.length, 0

    def get_seq_length(self) -> int:
        window = self._cache.window
        return window.length - window.positions.shape[1]

    def get_max_length(self) -> int:
        return self._cache.max_tokens

    def _written(self, states: Tensor, new: Tensor) -> Tensor:
        """The states with the new ones in their places: another, larger tensor where there was no room."""
        cache = self._cache
        rows, heads, tokens, head_dim = states.shape
        if (rows, tokens) != (cache.rows, cache.tokens):
            grown = states.new_zeros(cache.rows, heads, cache.tokens, head_dim)
            grown[:rows, :, :tokens] = states
            states = grown
        states[cache.row_index, :, cache.window.positions] = new.transpose(1, 2)
        return states
