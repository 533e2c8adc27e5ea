"""Lays out the weights of a linear layer as C reads them, see product.h and rounded_product.h."""

from __future__ import annotations

import torch
from torch import Tensor

LANE_BYTES = 4
"""How many bytes of weights an output's lane takes at once: two neighbouring inputs in bfloat16, one in
float32. For 8-bit integers it depends on the product, which may widen them."""


def in_panels(weight: Tensor, panel: int, neighbours: int | None = None) -> Tensor:
    """Returns a weight [out, in] as [panels, in / neighbours, panel, neighbours], padded with zeros.

    panel: how many outputs a panel has, `NativeLibrary.panel_outputs`.
    neighbours: how many inputs are side by side; by default as many as fit in `LANE_BYTES`.
    """
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(weight.detach(), (0, 0, 0, -outputs % panel))
    neighbours = neighbours or LANE_BYTES // weight.itemsize
    panels = padded.reshape(-1, panel, inputs // neighbours, neighbours)
    return panels.transpose(1, 2)
