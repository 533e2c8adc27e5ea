"""Follows one output through its grammar: which tokens may come next, and whether the output is complete."""

from __future__ import annotations

import time
from dataclasses import dataclass

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


class GrammarMatcher:
    """See `worker.engine.base.Matcher`. For one thread at a time."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._eos_ids = list(vocabulary.eos_ids)
        words = -(-(vocabulary.size + 1) // 32)
        self._bits = np.zeros(words * 4, dtype=np.uint8)
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
        began = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._note_failure(began)
        if self._failure is not None:
            return None
        bits = np.unpackbits(self._bits, bitorder="little").view(np.bool_)
        may_stop = bool(bits[self._vocabulary.size])
        allowed = torch.from_numpy(bits[: self._vocabulary.size])
        if not allowed.any():
            self._is_complete = may_stop
            return None
        if may_stop and may_end:
            allowed[self._eos_ids] = True
        return allowed

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
