"""What runs a model's layers for an engine: two ways to do it, by torch or natively."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence that go through the model together.

    row: of the cache, which has the sequence's first `start` tokens already.
    wants_logits: and not only the best token.
    """

    row: int
    start: int
    token_ids: Sequence[int]
    wants_logits: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model has to say behind the last token of each chunk.

    best: for each chunk the token of the highest logit, of equals the lowest; or sampling's NO_TOKEN.
    logits: [chunks that want them, vocab].
    """

    best: list[int]
    logits: Tensor


class Forward(Protocol):
    """A model with its cache of keys and values, a row per sequence. For one thread."""

    pads: bool
    """Whether chunks that run together cost as much as the longest."""

    def run(self, chunks: Sequence[Chunk]) -> Answer:
        """Run chunks of consecutive rows: of one token each, or all from the start on, or one alone.

        The cache has their tokens then. Raises RuntimeError, ValueError and IndexError, also where memory
        does not suffice.
        """

    def move(self, source: int, target: int, tokens: int) -> None:
        """Bring a row's first tokens to another row, whose sequence has left."""

    def clear(self, row: int) -> None:
        """Forget a row that may hold NaN."""
