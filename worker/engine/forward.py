"""The protocol of what runs a model's layers for an engine, by torch or natively."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draw:
    """How a token is drawn from the whole vocabulary: argmax of logits * inverse_temperature + noise.

    key: 64 bits that decide the noise, see `sampling.noise_key`.
    """

    inverse_temperature: float
    key: int


@dataclass(slots=True)
class Chunk:
    """Tokens of one sequence that go through the model together. Not frozen, because each step makes many.

    row: the sequence's row of the cache, which has its first `start` tokens already.
    wants_logits: whether logits are wanted, beside the next token.
    draw: how the next token is drawn; None: the argmax of the logits.
    """

    row: int
    start: int
    token_ids: Sequence[int]
    wants_logits: bool = False
    draw: Draw | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer after the last token of each chunk.

    best: for each chunk the next token (ties go to the lowest id), or sampling's NO_TOKEN.
    logits: [chunks that want them, vocab].
    """

    best: list[int]
    logits: Tensor


class Rows(Protocol):
    """Memory for keys and values: a row for each sequence, and a budget of tokens for all rows together."""

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether the budget holds rows of these lengths. One row of the longest length always fits."""

    def make_room(self, lengths: Sequence[int]) -> None:
        """Makes room for `lengths` tokens in the first rows, which keep their tokens. Other rows are free.

        Takes some microseconds where there is room already. Raises MemoryError where the budget or the
        machine has no more; then the rows keep their tokens.
        """

    def release(self, rows: int) -> None:
        """Frees the memory of all but the first `rows` rows, or less where that would need memory."""

    def move(self, source: int, target: int, tokens: int) -> None:
        """Moves a row's first `tokens` tokens to another row, whose sequence has left."""


class Forward(Rows, Protocol):
    """A model with its cache of keys and values. For one thread, unless a method says otherwise."""

    pads: bool
    """Whether each of the chunks that run together costs as much as the longest."""
    draws: bool
    """Whether it draws tokens, for chunks with a `draw`."""

    @property
    def progress(self) -> int:
        """A number that changes with each layer that has run. For any thread."""

    def run(self, chunks: Sequence[Chunk]) -> Answer:
        """Runs chunks of consecutive rows: one token each, or each from the start on, or a single one.

        Then the cache has their tokens. A run that failed may be repeated, also with fewer chunks. Raises
        RuntimeError, OSError, ValueError and IndexError, also where memory does not suffice.
        """

    def clear(self, row: int) -> None:
        """Clears a row that may hold NaN."""
