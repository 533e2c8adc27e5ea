"""Attention over the slot cache, as transformers' models call it (its `AttentionInterface`).

On a CPU, `scaled_dot_product_attention` is slow where a row has a single query, as in every step of decoding:
64 rows of 100 tokens took 65 ms a step (12 layers, 768 wide). For these a kernel of our own takes its place
or, where there is none, two batched matrix products. Prompts still use it. See docs/engines.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from worker.engine.native.attention_kernel import AttentionKernel

REFUSED_ARGUMENTS = ("softcap", "s_aux", "position_bias")
"""Arguments of some models' attention. Ignoring one of them would be silently wrong."""


def use_slot_attention(model: Any, kernel: AttentionKernel | None) -> None:
    """Makes a model of transformers use `slot_attention`, with the kernel where there is one."""
    name = f"tokenrelay-{kernel.isa}" if kernel is not None else "tokenrelay"
    AttentionInterface.register(name, partial(slot_attention, kernel))
    model.set_attn_implementation(name)


def slot_attention(
    kernel: AttentionKernel | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Returns [rows, query, heads, head_dim].

    kernel: for steps of single queries; None where the model never gets a `length_mask`.
    query: [rows, heads, query, head_dim]. key, value: [rows, kv_heads, tokens, head_dim], views of the cache.
    attention_mask: boolean [rows, 1, query, tokens]; where a row has one query, also one of `length_mask` or
        `additive_mask`; None: all earlier tokens. A model may pass a mask of its own in its place.
    Raises ValueError where the model passes an argument that is not supported.
    """
    for name in REFUSED_ARGUMENTS:
        if arguments.get(name) is not None:
            raise ValueError(f"attention with {name} is not supported")
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        assert kernel is not None, "a length_mask is for models with a kernel"
        return kernel(query, key, value, attention_mask, scaling).transpose(1, 2), None
    is_boolean = attention_mask is not None and attention_mask.dtype == torch.bool
    if query.shape[2] > 1 or is_boolean or not is_decoded_by_products(query.device):
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **arguments
        )
        return output, None
    return _decode(query, key, value, attention_mask, scaling).transpose(1, 2), None


def is_decoded_by_products(device: torch.device) -> bool:
    """Whether a step of single queries takes `additive_mask`. A GPU has better kernels."""
    return device.type == "cpu"


def length_mask(lengths: Sequence[int]) -> Tensor:
    """Returns the kernel's mask, int32 [rows, 1, 1, 1]: how many tokens each row's single query reads."""
    return torch.tensor(lengths, dtype=torch.int32)[:, None, None, None]


def additive_mask(visible: Tensor) -> Tensor:
    """Turns boolean [rows, tokens] into float32 [rows, 1, 1, tokens]: 0 where visible, else -inf."""
    mask = torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, -torch.inf)
    return mask[:, None, None]


def _decode(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Computes attention of one query for each row. Returns [rows, heads, 1, head_dim of the values].

    The heads that share keys are the columns of one product. Keys are its left operand, so that they are read
    as they lie in the cache; as the right operand they would be repacked first.
    """
    rows, heads, _, head_dim = query.shape
    kv_heads, tokens = key.shape[1], key.shape[2]
    columns = query.reshape(rows * kv_heads, heads // kv_heads, head_dim).transpose(1, 2)
    scores = torch.bmm(key.flatten(0, 1), columns)
    # [rows, heads, 1, tokens]
    scores = scores.transpose(1, 2).reshape(rows, heads, 1, tokens).float().mul_(scaling)
    if mask is not None:
        scores += mask
    weights = scores.softmax(dim=-1).to(value.dtype)
    weights = weights.view(rows * kv_heads, heads // kv_heads, tokens)
    return torch.bmm(weights, value.flatten(0, 1)).view(rows, heads, 1, value.shape[3])
