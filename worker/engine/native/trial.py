"""A decoder has to prove, before it takes over, that it computes what transformers' own model does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worker.engine.forward import Chunk, Forward

TOKENS = 12
"""Enough for a wrong position, norm or head to show."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.int8: 0.3}
"""Of the logits' standard deviation, for the root of the mean square of the differences.

Seen by rounding: 0.00001 and 0.02, in random models of large weights 0.12; by a wrong activation 0.1 to 0.5,
by the wrong kind of norm 0.45, without positions 1.4.
"""


class Trial:
    """A model's answer to a few tokens."""

    @torch.inference_mode()
    def __init__(self, model: Any) -> None:
        vocab_size = model.get_input_embeddings().num_embeddings
        self._token_ids = [7919 * index % vocab_size for index in range(TOKENS)]
        self._dtype: torch.dtype = model.dtype
        # Behind the last two tokens.
        self._expected: Tensor = model(input_ids=torch.tensor([self._token_ids])).logits[0, -2:].float()

    @torch.inference_mode()
    def is_passed_by(self, forward: Forward, *, is_int8: bool = False) -> bool:
        """Whether a prompt, and a step after it, lead to the same answer.

        is_int8: to an answer as close as weights of 8 bits allow.
        """
        *prompt, last = self._token_ids
        chunks = [
            Chunk(0, 0, prompt, wants_logits=True),
            Chunk(0, len(prompt), [last], wants_logits=True),
        ]
        logits = torch.cat([forward.run([chunk]).logits for chunk in chunks])
        are_numbers = self._expected.isfinite()
        if not torch.equal(logits.isfinite(), are_numbers):
            return False
        expected, computed = self._expected[are_numbers], logits[are_numbers]
        # A model whose logits do not vary, or are none, has nothing to compare.
        difference = (computed - expected).square().mean().sqrt()
        tolerance = TOLERANCE[torch.int8 if is_int8 else self._dtype]
        return not bool(difference > tolerance * expected.std())
