"""Linear layers with weights in the layout that oneDNN's kernels read, for bfloat16 on a CPU.

`torch.nn.functional.linear` repacks a bfloat16 weight at every call. With few rows that costs more than the
product. See docs/engines.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

EXPECTED_ROWS = 32
"""The layout is best for this many rows, and right for any number."""


class PackedLinear(nn.Module):
    """Computes x @ weight.T + bias, like nn.Linear."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight: bfloat16 [out, in]."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # Neither a parameter nor a buffer: a packed tensor has no strides, and most operations refuse it.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), EXPECTED_ROWS)
        self._bias = bias
        # It has no memory, and is here because some models ask for its type.
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
    """Replaces the model's linear layers and frees their weights.

    Only layers of exactly these types are replaced: a subclass may compute something else.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child.weight.detach(), _detached(child.bias)))
            elif type(child) is Conv1D:  # GPT-2's, whose weight is transposed.
                setattr(module, name, PackedLinear(child.weight.detach().T, _detached(child.bias)))


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
