"""How C finds the weights of a linear layer: see product.h and shortlist.h."""

from __future__ import annotations

import torch
from torch import Tensor

LANE_BYTES = 4
"""What an output's lane takes at once: two neighbouring inputs of bfloat16, one of float32. Of 8-bit integers
it depends on the product, which may widen them."""


def in_panels(weight: Tensor, panel: int, neighbours: int | None = None) -> Tensor:
    """A weight [out, in] as [panels, in / neighbours, panel, neighbours], the last panel padded with zeros.

    panel: outputs of a panel, `NativeLibrary.panel_outputs`.
    neighbours: inputs that stand side by side; by default as many as `LANE_BYTES` hold.
    """
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(weight.detach(), (0, 0, 0, -outputs % panel))
    neighbours = neighbours or LANE_BYTES // weight.itemsize
    panels = padded.reshape(-1, panel, inputs // neighbours, neighbours)
    return panels.transpose(1, 2)
