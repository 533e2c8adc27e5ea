"""Follows one output through its grammar: which tokens may come next, and whether the output is complete."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llguidance
import numpy as np
import torch
from torch import Tensor

from tasks.grammar_check import NO_OUTPUT, plain

BURST_SECONDS = 0.25
"""The processor time that the grammar of one sequence may take at once. Large grammars are expanded when they
are first needed."""

SECONDS_PER_TOKEN = 0.005
"""The processor time that a token's mask may take on average. Usual ones take 0.05 to 1 ms. All sequences of
a batch wait for each mask, so a costlier grammar would slow them all down."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """size: how many ids the model has. The library's end of output is the id after the last one."""

    size: int
    eos_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """kind: the field of `structured_outputs` that it comes from. text: as the library takes it."""

    kind: str
    text: str


def mask_words(vocab_size: int) -> int:
    """Returns how many words of 32 bits a packed mask has, with a bit for each token and one for the end."""
    return vocab_size // 32 + 1


class GrammarMatcher:
    """See `worker.engine.base.Matcher`. For one thread at a time. source: of its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: Vocabulary, source: GrammarSource) -> None:
        self.source = source
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._eos_ids = list(vocabulary.eos_ids)
        self._bits = np.zeros(mask_words(vocabulary.size) * 4, dtype=np.uint8)
        self._allowance = BURST_SECONDS
        self._failure: str | None = None
        self._is_complete = matcher.is_stopped()

    @property
    def failure(self) -> str | None:
        """Why the sequence cannot go on; None while it can."""
        return self._failure

    @property
    def is_complete(self) -> bool:
        """Whether nothing more may come."""
        return self._is_complete and self._failure is None

    def allowed(self, *, may_end: bool) -> Tensor | None:
        """Returns whether each token may come next, bool [vocab].

        Returns None where none may: the output is complete, or a failure was noted. may_end: whether an end
        of sequence may come where the output may end.
        """
        packed = self.packed(may_end=may_end)
        if packed is None:
            return None
        bits = np.unpackbits(packed, bitorder="little").view(np.bool_)
        return torch.from_numpy(bits[: self._vocabulary.size])

    def packed(self, *, may_end: bool) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        """Returns the same as `allowed`, with the bit of token `i` in byte `i // 8`, lowest bits first.

        It is as long as `mask_words` says, and the next call overwrites it.
        """
        began = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._note_failure(began)
        if self._failure is not None:
            return None
        byte, bit = divmod(self._vocabulary.size, 8)
        may_stop = bool(self._bits[byte] >> bit & 1)
        self._bits[byte] &= (1 << bit) - 1
        self._bits[byte + 1 :] = 0
        if not self._bits.any():
            self._is_complete = may_stop
            return None
        if may_stop and may_end:
            for token_id in self._eos_ids:
                self._bits[token_id // 8] |= 1 << token_id % 8
        return self._bits

    def fitting(self, token_ids: Sequence[int]) -> int:
        """Returns how many of these tokens may come next, one after another. Takes none of them."""
        fitting: int = self._matcher.validate_tokens(list(token_ids))
        return fitting

    def rollback(self, tokens: int) -> None:
        """Takes back the last tokens."""
        self._matcher.rollback(tokens)
        self._is_complete = self._matcher.is_stopped()

    def accept(self, token_id: int) -> None:
        """Takes the token that came, and notes a failure."""
        began = time.thread_time()
        self._matcher.consume_token(token_id)
        self._is_complete = self._matcher.is_stopped()
        self._allowance = min(self._allowance + SECONDS_PER_TOKEN, BURST_SECONDS)
        self._note_failure(began)

    def _note_failure(self, began: float) -> None:
        """began: the thread's processor time before a call of the library."""
        self._allowance -= time.thread_time() - began
        if self._matcher.is_error():
            reason = plain("grammar", self._matcher.get_error())
            if reason == NO_OUTPUT:
                reason = "no token of this model fits the grammar here"
            self._failure = f"structured_outputs: {reason}"
        elif self._allowance < 0:
            self._failure = (
                "structured_outputs: the grammar is too costly, it took more than "
                f"{1000 * SECONDS_PER_TOKEN:g} ms of processor time for each token"
            )
