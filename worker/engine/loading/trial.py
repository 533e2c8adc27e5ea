"""A trial: whatever is to run a model has to give the same answers as transformers' own code first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worker.engine.forward import Chunk, Forward
from worker.engine.torch.windows import Windows, narrowed, with_narrow_windows

LENGTHS = (12, 10)
"""Tokens of the trial's sequences, enough to show a wrong position, norm, mask or head."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05, torch.int8: 0.3}
"""The largest root mean square of the differences, in parts of the logits' standard deviation.

Measured with rounding alone: 0.00001 in float32 and 0.02 in bfloat16, 0.12 in random models with large
weights. With a wrong activation 0.1 to 0.5, with the wrong kind of norm 0.45, without positions 1.4, with a
wrong mask 0.2 to 1.1. With weights of 8 bits: 0.02 in the bundled model, 0.02 to 0.21 in random models with
large weights.
"""


class Trial:
    """A model's own answers to two short sequences.

    The model runs them one by one, from the start, without a cache and with its plainest attention, so that
    none of our code takes part. A forward runs them side by side, as an engine would: two prompts of
    different lengths, a step of both, and a chunk after it.
    """

    ROWS = len(LENGTHS)

    @torch.inference_mode()
    def __init__(self, model: Any, windows: Windows | None = None) -> None:
        """model: as it was loaded; it stays so. windows: those of its layers, which a forward has to obey."""
        self.windows = windows or {}
        vocab_size = model.get_input_embeddings().num_embeddings
        self._dtype: torch.dtype = model.dtype
        self._sequences = [
            [(7919 * index + 104729 * row) % vocab_size for index in range(length)]
            for row, length in enumerate(LENGTHS)
        ]
        loaded_with = model.config._attn_implementation
        if model._can_set_attn_implementation():
            model.set_attn_implementation("eager")
        # Each [tokens, vocab].
        self._expected = [_own_logits(model, ids) for ids in self._sequences]
        if model._can_set_attn_implementation():
            model.set_attn_implementation(loaded_with)

    @classmethod
    def with_narrow_windows(cls, model: Any, windows: Windows) -> Trial:
        """Returns a trial in which the sequences are longer than the windows."""
        with with_narrow_windows(model):
            return cls(model, narrowed(windows))

    @torch.inference_mode()
    def is_passed_by(self, forward: Forward, *, is_int8: bool = False) -> bool:
        """Whether a forward with an empty cache gives the same answers. Raises what the forward raises.

        is_int8: whether the answers need only be as close as weights of 8 bits allow.
        """
        tolerance = TOLERANCE[torch.int8 if is_int8 else self._dtype]
        passes = [
            [(0, 0, 11), (1, 0, 5)],
            [(0, 11, 12), (1, 5, 6)],
            [(1, 6, 10)],
        ]
        return all(self._is_right(forward, chunks, tolerance) for chunks in passes)

    def _is_right(self, forward: Forward, chunks: list[tuple[int, int, int]], tolerance: float) -> bool:
        """chunks: row, start and end of each."""
        logits = forward.run(
            [
                Chunk(row, start, self._sequences[row][start:end], wants_logits=True)
                for row, start, end in chunks
            ]
        ).logits
        expected = torch.stack([self._expected[row][end - 1] for row, _, end in chunks])
        return _is_close(logits, expected, tolerance)


def _own_logits(model: Any, token_ids: list[int]) -> Tensor:
    """Returns the logits after each token by transformers' own code, [tokens, vocab]."""
    ids = torch.tensor([token_ids], device=model.device)
    # Without a mask transformers warns where a token may be padding.
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits[0].float()


def _is_close(logits: Tensor, expected: Tensor, tolerance: float) -> bool:
    are_numbers = expected.isfinite()
    if not torch.equal(logits.isfinite(), are_numbers):
        return False
    expected, computed = expected[are_numbers], logits[are_numbers]
    # Where the logits do not vary, or there are none, there is nothing to compare.
    difference = (computed - expected).square().mean().sqrt()
    return not bool(difference > tolerance * expected.std())
