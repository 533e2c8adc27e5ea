"""What runs a model's layers for an engine: two ways to do it, by torch or natively."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draw:
    """How a token is drawn from all of the vocabulary: argmax of logits * inverse_temperature + noise.

    key: 64 bits that decide the noise, see `sampling.noise_key`.
    """

    inverse_temperature: float
    key: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence that go through the model together.

    row: of the cache, which has the sequence's first `start` tokens already.
    wants_logits: and not only the next token.
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
    """What a model has to say after the last token of each chunk.

    best: for each chunk the next token, ties to the lowest id; or sampling's NO_TOKEN.
    logits: [chunks that want them, vocab].
    """

    best: list[int]
    logits: Tensor


class Rows(Protocol):
    """Memory for keys and values: a row per sequence, and a budget of tokens for all rows together."""

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether the budget holds rows of these lengths. One row of the longest length always fits."""

    def make_room(self, lengths: Sequence[int]) -> None:
        """Have room for so many tokens in the first rows, whose tokens stay. The other rows are free.

        Takes some microseconds where the room is there already. Raises MemoryError where the budget or the
        machine has no more; the rows keep their tokens then.
        """

    def release(self, rows: int) -> None:
        """Give back the memory of all rows but the first ones; less where that would need more of it."""

    def move(self, source: int, target: int, tokens: int) -> None:
        """Bring a row's first tokens to another row, whose sequence has left."""


class Forward(Rows, Protocol):
    """A model with its cache of keys and values. For one thread."""

    pads: bool
    """Whether chunks that run together cost as much as the longest."""
    draws: bool
    """Whether it takes chunks with a `draw`."""

    @property
    def progress(self) -> int:
        """For any thread. A number that changes with each layer that has run."""

    def run(self, chunks: Sequence[Chunk]) -> Answer:
        """Run chunks of consecutive rows: of one token each, or all from the start on, or one alone.

        The cache has their tokens then. A run that failed may be repeated, with fewer chunks too. Raises
        RuntimeError, OSError, ValueError and IndexError, also where memory does not suffice.
        """

    def clear(self, row: int) -> None:
        """Forget a row that may hold NaN."""
