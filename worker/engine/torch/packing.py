"""Linear layers with their weights in the layout that oneDNN's kernels read: bfloat16 on a CPU.

`torch.nn.functional.linear` repacks a bfloat16 weight at every call, which for a few rows costs more than the
product. See docs/engines.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

EXPECTED_ROWS = 32
"""What the layout is best for; any number of rows is right."""


class PackedLinear(nn.Module):
    """x @ weight.T + bias, as nn.Linear."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight: bfloat16 [out, in]."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # Not a parameter or buffer: a packed tensor has no strides, and most operations refuse it.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), EXPECTED_ROWS)
        self._bias = bias
        # Without memory: some models ask for its type.
        self.weight = torch.empty_like(weight, device="meta")

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self._bias, "none", [], "")
        return output


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and dtype == torch.bfloat16 and multiplies_bfloat16()


def multiplies_bfloat16() -> bool:
    """Whether torch's products in bfloat16 are fast on this processor."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.inference_mode()
def pack_linears(model: nn.Module) -> None:
    """Replace the model's linear layers, whose own weights are freed.

    Only layers of exactly these types: a subclass may compute something else.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child.weight.detach(), _detached(child.bias)))
            elif type(child) is Conv1D:  # GPT-2's, with the weight the other way round.
                setattr(module, name, PackedLinear(child.weight.detach().T, _detached(child.bias)))


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
