"""Prepares weights for shortlists of the best tokens (see shortlist.h), and decides whether they pay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.memory import large_zeros
from worker.engine.native.panels import in_panels

HIGHEST = 127
FLOAT32_UNIT = 2.0**-24
"""The largest relative error of rounding to float32."""

ROUNDINGS = 1.01
"""Roundings for each input: one in the product's sum, and one per 256 if inputs are summed in blocks."""

SPARE_ROUNDINGS = 16
"""How many roundings the bounds themselves may have."""

UPWARDS = 1.0001
"""A factor that rounds bounds up."""

SMALLEST_ERROR = 1e-25
"""The least error, in parts of the inputs' length. It covers numbers that the processor flushes to zero."""

BLOCK_PANELS = 16
"""How many panels are rounded at a time. Rounding takes several times their memory."""

MANY = 32
"""At least this many tokens get shortlists beside others whose logits are wanted. Fewer join those, whose
product reads the head's weights anyway."""

FAILURE = 2
"""A failure counts as this many successes. A success saves half a product; a failure costs as much, and may
make the weights be read a second time."""

MOST_CREDIT = 64

PAUSE = 64
"""How many calls go without shortlists after too many failures."""


@dataclass(frozen=True, slots=True)
class RoundedWeights:
    """A weight [out, in] as C reads it. Outputs are padded to whole panels.

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
    """Returns a weight rounded to 8 bits, with bounds of its errors.

    Outputs whose weights are not finite get an infinite error, so that they are never left out.

    weight: [out, in], float32 or bfloat16. panel: how many outputs a panel has.
    neighbours: how many inputs stand side by side, `NativeLibrary.shortlist_neighbours`.
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
    """Counts successes and failures of shortlists, and pauses them where they do not pay."""

    def __init__(self) -> None:
        self._credit = MOST_CREDIT
        self._pause = 0

    def may_be_made(self, tokens: int, others: int) -> bool:
        """Whether a call may use shortlists.

        tokens: how many tokens need no logits. others: how many do.
        """
        if self._pause:
            self._pause -= 1
            return False
        return tokens >= (MANY if others else 1)

    def saw(self, successes: int, failures: int) -> None:
        """Notes how many of a call's shortlists succeeded and failed."""
        self._credit = min(MOST_CREDIT, self._credit + successes - FAILURE * failures)
        if self._credit < 0:
            self._credit = 0
            self._pause = PAUSE
