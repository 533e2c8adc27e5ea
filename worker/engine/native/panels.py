"""How C finds the weights of a linear layer: see product.h and shortlist.h."""

from __future__ import annotations

import torch
from torch import Tensor

PANEL = 64
"""As in product.h."""

LANE_BYTES = 4
"""What an output takes at once: neighbouring inputs of 8 and 16 bits, or one of 32."""


def in_panels(weight: Tensor) -> Tensor:
    """A weight [out, in] as [panel, in / neighbours, PANEL, neighbours], the last one padded with zeros."""
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(weight.detach(), (0, 0, 0, -outputs % PANEL))
    neighbours = LANE_BYTES // weight.itemsize
    panels = padded.reshape(-1, PANEL, inputs // neighbours, neighbours)
    return panels.transpose(1, 2)
