"""The keys and values of all sequences in the batch: a row per slot, a sequence's tokens from position 0 on.

transformers' own caches keep all rows in step, and its paged cache comes with a scheduler, a thread and
sampling of its own. Here every row is at its own position, and models run on it unchanged: `Cache` is what
they call.

Rows 0..n-1 are in use, without holes, so that a pass reads them as a view and nothing is gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK_TOKENS = 64
"""Lengths grow by multiples of it: each growth is a copy, each spare token is idle memory."""


@dataclass(slots=True)
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
    """See the module. `window` says where the next forward pass writes and reads.

    Memory grows with need: by rows up to max_rows and by tokens up to max_tokens, which bound it.
    """

    def __init__(self, layers: int, max_rows: int, max_tokens: int) -> None:
        self.max_rows = max_rows
        self.max_tokens = max_tokens
        self.window = Window(0, torch.zeros(0, 1, dtype=torch.long), 0)
        self._slot_layers = [_SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self._slot_layers))

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
        self.keys = key_states.new_zeros(self._grown_shape(key_states, rows=0, tokens=0))
        self.values = value_states.new_zeros(self._grown_shape(value_states, rows=0, tokens=0))
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
        """The states with the new ones in their places: another, larger tensor where they do not fit."""
        window = self._cache.window
        if states.shape[0] < window.rows.stop or states.shape[2] < window.length:
            rows, tokens = states.shape[0], states.shape[2]
            grown = states.new_zeros(self._grown_shape(new, rows, tokens))
            grown[:rows, :, :tokens] = states
            states = grown
        rows_index = torch.arange(window.rows.start, window.rows.stop, device=states.device)[:, None]
        states[rows_index, :, window.positions] = new.transpose(1, 2)
        return states

    def _grown_shape(self, new: Tensor, rows: int, tokens: int) -> tuple[int, int, int, int]:
        """Room for the window, doubling, so that growing costs less than filling."""
        window, cache = self._cache.window, self._cache
        if rows < window.rows.stop:
            rows = min(cache.max_rows, max(window.rows.stop, 2 * rows))
        if tokens < window.length:
            blocks = -(-max(window.length, 2 * tokens) // BLOCK_TOKENS)
            tokens = min(cache.max_tokens, blocks * BLOCK_TOKENS)
        return rows, new.shape[1], tokens, new.shape[3]
