"""The keys and values of all sequences in the batch: a row for each slot, with its tokens from position 0 on.

In transformers' own caches all rows are at the same position, and its paged cache comes with its own
scheduler, thread and sampling. Here every row is at its own position, and models run on it unchanged, through
their interface `Cache`.

Rows 0..n-1 are in use, without gaps, so that a pass reads them as a view and nothing is gathered. There is
little spare room for tokens, so that this view is mostly contiguous. Products would copy any other view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from worker.engine.memory import large_zeros, memory_errors

BLOCK_TOKENS = 32
"""Room for tokens is a multiple of this."""

SPARE_SHARE = 8
"""Room grows by an eighth more than needed: growth is a copy, but spare tokens are read for nothing."""

READ_IN_VAIN = 1.5
"""Up to this many times the needed tokens are read for the sake of a contiguous view."""


class SlotStates:
    """The tensors. They grow as needed, to at most max_rows rows and max_tokens tokens."""

    def __init__(
        self,
        samples: Sequence[tuple[Tensor, Tensor]],
        max_rows: int,
        max_tokens: int,
        budget_tokens: int | None = None,
    ) -> None:
        """samples: each layer's keys and values of one token, [1, heads, 1, head_dim].

        max_tokens: for one row. budget_tokens: for all rows together, no fewer than max_tokens; None: as many
            as the rows can have.
        """
        self.max_rows = max_rows
        self.max_tokens = max_tokens
        self._budget_tokens = budget_tokens or max_rows * max_tokens
        self.rows = self.tokens = 0
        """How many rows and tokens there is room for."""
        self.layers = [
            (keys[:0, :, :0].contiguous(), values[:0, :, :0].contiguous()) for keys, values in samples
        ]
        """Each layer's keys and values [rows, heads, tokens, head_dim]."""

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether the budget holds rows of these lengths. Each row needs as much as the longest."""
        return not lengths or len(lengths) * self._least(max(lengths)) <= self._budget_tokens

    def make_room(self, lengths: Sequence[int]) -> None:
        """Makes room for `lengths` tokens in the first rows, which keep their tokens. Other rows are free.

        Raises MemoryError where the budget or the machine has no more; then the rows keep their tokens.
        """
        rows, tokens = len(lengths), max(lengths, default=0)
        if rows <= self.rows and tokens <= self.tokens:
            return
        if not self.fits(lengths):
            raise MemoryError(f"KV_CACHE_GIB holds {self._budget_tokens} tokens of keys and values")
        least, with_spare = self._least(tokens), self._least(tokens + tokens // SPARE_SHARE)
        new_rows = self.rows if rows <= self.rows else min(self.max_rows, max(rows, 2 * self.rows))
        new_tokens = self.tokens if tokens <= self.tokens else with_spare
        if new_rows * new_tokens > self._budget_tokens:
            # Rows that need room get that of free rows, and what others do not use.
            new_rows, new_tokens = rows, max(least, min(with_spare, self._budget_tokens // rows))
        try:
            self._resize(new_rows, new_tokens)
        except MemoryError:
            self._resize(min(rows, self.rows), min(least, self.tokens))
            self._resize(rows, least)

    def release(self, rows: int) -> None:
        """Frees the memory of all but the first `rows` rows, where that takes no copy."""
        if rows == 0:
            self._resize(0, 0)

    def ensure(self, rows: int, tokens: int) -> None:
        """Makes sure of at least this many rows and tokens, where `make_room` was not called."""
        if rows > self.rows or tokens > self.tokens:
            self._resize(max(rows, self.rows), max(self._least(tokens), self.tokens))

    def readable(self, tokens: int) -> int:
        """Returns how many tokens to read of rows with up to `tokens`: all the room if it is little more."""
        return self.tokens if tokens <= self.tokens <= READ_IN_VAIN * tokens else tokens

    def _least(self, tokens: int) -> int:
        """Returns the least room for `tokens` tokens."""
        return min(self.max_tokens, -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS)

    def _resize(self, rows: int, tokens: int) -> None:
        """Raises MemoryError where the machine has no more. Then the room is what all layers have."""
        old_rows, old_tokens = self.rows, self.tokens
        self.rows, self.tokens = min(rows, old_rows), min(tokens, old_tokens)
        for index, (keys, values) in enumerate(self.layers):
            with memory_errors():
                self.layers[index] = (_resized(keys, rows, tokens), _resized(values, rows, tokens))
        self.rows, self.tokens = rows, tokens

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies a row's first `tokens` tokens to another row."""
        for layer in self.layers:
            for states in layer:
                states[target, :, :tokens] = states[source, :, :tokens]

    def clear(self, row: int) -> None:
        """Fills a row with zeros."""
        for layer in self.layers:
            for states in layer:
                states[row].zero_()


def _resized(states: Tensor, rows: int, tokens: int) -> Tensor:
    old_rows, heads, old_tokens, head_dim = states.shape
    shape = (rows, heads, tokens, head_dim)
    resized = large_zeros(*shape, dtype=states.dtype) if states.is_cpu else states.new_zeros(shape)
    rows, tokens = min(rows, old_rows), min(tokens, old_tokens)
    resized[:rows, :, :tokens] = states[:rows, :, :tokens]
    return resized


@dataclass(frozen=True, slots=True)
class Window:
    """What one forward pass writes and reads.

    first_row: the pass has rows first_row, first_row + 1, … as its batch.
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
    """The states as transformers' models write and read them. `open` says where."""

    def __init__(self, states: SlotStates) -> None:
        self.states = states
        self.updates = 0
        """How many layers have written to the cache so far."""
        super().__init__(layers=[_SlotLayer(self, index) for index in range(len(states.layers))])
        self.open(Window(0, torch.zeros(0, 1, dtype=torch.long), 0))

    def open(self, window: Window) -> None:
        """Chooses what a forward pass writes and reads."""
        self.window = window
        device = window.positions.device
        self.row_index = torch.arange(window.rows.start, window.rows.stop, device=device)[:, None]
        self.states.ensure(window.rows.stop, window.length)


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer."""

    is_sliding = False

    def __init__(self, cache: SlotCache, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache
        self._index = index
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Does nothing: the states exist already."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes new tokens' states [rows, heads, query, head_dim]. Returns all that the rows may read."""
        cache, window = self._cache, self._cache.window
        keys, values = cache.states.layers[self._index]
        for states, new in ((keys, key_states), (values, value_states)):
            states[cache.row_index, :, window.positions] = new.transpose(1, 2)
        cache.updates += 1
        return keys[window.rows, :, : window.length], values[window.rows, :, : window.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        return self._cache.window.length, 0

    def get_seq_length(self) -> int:
        window = self._cache.window
        return window.length - window.positions.shape[1]

    def get_max_length(self) -> int:
        return self._cache.states.max_tokens
