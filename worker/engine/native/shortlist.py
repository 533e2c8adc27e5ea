"""The best tokens by shortlists, see shortlist.h: what they need, and whether they pay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.memory import large_zeros
from worker.engine.native.panels import in_panels

HIGHEST = 127
FLOAT32_UNIT = 2.0**-24
"""How much rounding to float32 adds at most to a number, in parts of it."""

ROUNDINGS = 1.01
"""For each input: one of the product's sum, and one of each 256 where rounded ones are summed in blocks."""

SPARE_ROUNDINGS = 16
"""Of the bounds themselves."""

UPWARDS = 1.0001
"""Bounds are to be rounded up."""

SMALLEST_ERROR = 1e-25
"""In parts of the inputs' length: covers numbers that the processor takes for zero."""

BLOCK_PANELS = 16
"""Panels of outputs that are rounded at a time, as it takes some times their memory."""

MANY = 32
"""So many tokens get shortlists beside others whose logits are wanted. Fewer had better join these: their
product reads the head's weights anyway."""

FAILURE = 2
"""In successes, which save half a product each. A failure costs as much in vain, and may bring a second
reading of the weights."""

MOST_CREDIT = 64

PAUSE = 64
"""So many calls go without shortlists where they fail."""


@dataclass(frozen=True, slots=True)
class RoundedWeights:
    """A weight [out, in] as C reads it; outputs are filled up to whole panels.

    panels: int8, see `in_panels`.
    offsets: int32 [outputs]. scales, lengths, errors: float32, the same.
    """

    panels: Tensor
    offsets: Tensor
    scales: Tensor
    lengths: Tensor
    errors: Tensor


@torch.inference_mode()
def rounded_weights(weight: Tensor, panel: int, neighbours: int) -> RoundedWeights:
    """weight: [out, in], float32 or bfloat16. panel: outputs of a panel.
    neighbours: inputs side by side, `NativeLibrary.shortlist_neighbours`.

    Outputs whose weights are not finite get an infinite error, so that they are looked at.
    """
    outputs, inputs = weight.shape
    padded = -(-outputs // panel) * panel
    panels = large_zeros(padded * inputs, dtype=torch.int8)
    offsets = torch.zeros(padded, dtype=torch.int32)
    scales, lengths, errors = torch.zeros(3, padded).unbind()
    for start in range(0, outputs, BLOCK_PANELS * panel):
        exact = weight[start : start + BLOCK_PANELS * panel].double()
        exact = torch.nn.functional.pad(exact, (0, 0, 0, -len(exact) % panel))
        is_finite = exact.isfinite().all(dim=1)
        exact[~is_finite] = 0
        scale = (exact.abs().amax(dim=1) / HIGHEST).float().clamp(min=torch.finfo(torch.float32).tiny)
        whole = (exact / scale[:, None]).round()
        rounded = whole * scale[:, None]
        of_sums = (ROUNDINGS * inputs + SPARE_ROUNDINGS) * FLOAT32_UNIT * exact.norm(dim=1)
        error = UPWARDS * ((exact - rounded).norm(dim=1) + of_sums) + SMALLEST_ERROR
        part = slice(start, start + len(exact))
        packed = in_panels(whole.to(torch.int8), panel, neighbours)
        panels[start * inputs : part.stop * inputs] = packed.flatten()
        offsets[part] = -(HIGHEST + 1) * whole.sum(dim=1).int()
        scales[part] = scale
        lengths[part] = UPWARDS * rounded.norm(dim=1)
        errors[part] = torch.where(is_finite, error, torch.inf)
    return RoundedWeights(panels, offsets, scales, lengths, errors)


class Shortlists:
    """Keeps an account of them."""

    def __init__(self) -> None:
        self._credit = MOST_CREDIT
        self._pause = 0

    def may_be_made(self, tokens: int, others: int) -> bool:
        """For a call with so many tokens whose logits nobody wants, and so many others."""
        if self._pause:
            self._pause -= 1
            return False
        return tokens >= (MANY if others else 1)

    def saw(self, successes: int, failures: int) -> None:
        """What came of a call's shortlists."""
        self._credit = min(MOST_CREDIT, self._credit + successes - FAILURE * failures)
        if self._credit < 0:
            self._credit = 0
            self._pause = PAUSE
