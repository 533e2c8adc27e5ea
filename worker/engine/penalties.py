"""What a request's penalties do to the logits of tokens that a sequence has seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.engine.base import SamplingParams


class Penalties:
    """What a sequence's penalties take from the logits of tokens that it has seen.

    The repetition penalty divides the positive logits of all tokens seen, the prompt's included, and
    multiplies the negative ones. The presence penalty is taken from the logits of the output's tokens once,
    the frequency penalty for each time.
    """

    def __init__(
        self, sampling: SamplingParams, prompt_ids: Sequence[int], output_ids: Sequence[int]
    ) -> None:
        self._sampling = sampling
        self._output_counts = dict.fromkeys(prompt_ids, 0) if sampling.repetition_penalty != 1 else {}
        for token_id in output_ids:
            self.count(token_id)

    @classmethod
    def of(
        cls, sampling: SamplingParams, prompt_ids: Sequence[int], output_ids: Sequence[int]
    ) -> Penalties | None:
        """Returns None where all are off."""
        if sampling.repetition_penalty == 1 and sampling.presence_penalty == sampling.frequency_penalty == 0:
            return None
        return cls(sampling, prompt_ids, output_ids)

    def count(self, token_id: int) -> None:
        """Counts one more token of the output."""
        self._output_counts[token_id] = self._output_counts.get(token_id, 0) + 1

    def apply(self, logits: Tensor) -> None:
        """Applies the penalties to logits, float32 [vocab], in place."""
        ids = torch.tensor([*self._output_counts], dtype=torch.long, device=logits.device)
        counts = torch.tensor([*self._output_counts.values()], dtype=logits.dtype, device=logits.device)
        sampling = self._sampling
        seen = logits[ids]
        penalty = sampling.repetition_penalty
        seen = torch.where(seen > 0, seen / penalty, seen * penalty)
        seen -= sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)
        logits[ids] = seen
