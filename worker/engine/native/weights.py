"""Reads the parts of a decoder-only transformer from transformers' models of the kinds in `READERS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Rotary = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A tensor of the wanted type, positions [1, tokens] -> cosines, sines [1, tokens, head_dim]."""


@dataclass(frozen=True, slots=True)
class Norm:
    """weight, bias: [width]."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer of torch, or of GPT-2, whose weight is transposed."""

    module: Any

    @property
    def weight(self) -> Tensor:
        """[out, in]."""
        weight: Tensor = self.module.weight.detach()
        return weight.T if isinstance(self.module, Conv1D) else weight

    @property
    def bias(self) -> Tensor | None:
        """[out]."""
        bias: Tensor | None = self.module.bias
        return bias

    def release(self) -> None:
        """Frees the weight's memory. The layer cannot be used any more."""
        self.module.weight.data = torch.empty(0)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A token's embedding is tokens[id], and where there are learnt positions + positions[position + offset].

    tokens: [vocab, hidden]. positions: [positions, hidden]; None where positions are rotary.
    """

    tokens: Tensor
    positions: Tensor | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """x += attention_output(attention(projections(norm(x)))); x += down(act(gate(norm(x))) · up(norm(x)))

    projections: to queries, keys and values: one layer for all or three.
    gate: None where it is down(act(up(norm(x)))).
    query_norm, key_norm: of each head; None where there is none.
    """

    attention_norm: Norm
    projections: tuple[Linear, ...]
    attention_output: Linear
    mlp_norm: Norm
    up: Linear
    down: Linear
    gate: Linear | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None

    def linears(self) -> Iterator[Linear]:
        yield from self.projections
        yield from (self.attention_output, self.up, self.down)
        if self.gate is not None:
            yield self.gate


@dataclass(frozen=True, slots=True)
class Weights:
    """All of a model.

    layers: from the first to the last.
    activation: its name in transformers.
    is_rms: norms are by the root mean square, without a mean; all share `epsilon`.
    is_tied: the head's weight is that of the embeddings.
    rotary: None where positions are part of the embeddings.
    """

    heads: int
    kv_heads: int
    head_dim: int
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: Linear
    is_tied: bool
    embeddings: Embeddings
    rotary: Rotary | None
    activation: str
    is_rms: bool
    epsilon: float

    def linears(self) -> Iterator[Linear]:
        """All linear layers."""
        for layer in self.layers:
            yield from layer.linears()
        yield self.head


def read_weights(model: Any) -> Weights | None:
    """Returns a model's weights; None where its kind or one of its options is not known here."""
    reader = READERS.get(model.config.model_type)
    weights = None if reader is None else reader(model)
    if weights is None or not all(_is_plain(linear.module) for linear in weights.linears()):
        return None
    return weights


def _is_plain(module: nn.Module) -> bool:
    """Whether a layer computes its weight's product and no more. A subclass may do more, for an adapter."""
    return type(module) in (nn.Linear, Conv1D) and not (module._forward_hooks or module._forward_pre_hooks)


def _llama(model: Any) -> Weights | None:
    """Reads Llama and models built like it: rotary positions, RMS norms, a gated MLP."""
    config, inner = model.config, model.model
    layers = tuple(
        Layer(
            attention_norm=_norm(block.input_layernorm),
            projections=tuple(
                Linear(p) for p in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj)
            ),
            attention_output=Linear(block.self_attn.o_proj),
            mlp_norm=_norm(block.post_attention_layernorm),
            up=Linear(block.mlp.up_proj),
            down=Linear(block.mlp.down_proj),
            gate=Linear(block.mlp.gate_proj),
            query_norm=_norm(block.self_attn.q_norm) if hasattr(block.self_attn, "q_norm") else None,
            key_norm=_norm(block.self_attn.k_norm) if hasattr(block.self_attn, "k_norm") else None,
        )
        for block in inner.layers
    )
    return Weights(
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=inner.layers[0].self_attn.head_dim,
        layers=layers,
        final_norm=_norm(inner.norm),
        head=Linear(model.lm_head),
        is_tied=model.lm_head.weight is model.get_input_embeddings().weight,
        embeddings=Embeddings(inner.embed_tokens.weight),
        rotary=inner.rotary_emb,
        activation=config.hidden_act,
        is_rms=True,
        epsilon=config.rms_norm_eps,
    )


def _opt(model: Any) -> Weights | None:
    """Reads OPT, except for the few sizes that are post-norm or project their embeddings."""
    config, inner = model.config, model.model.decoder
    if not config.do_layer_norm_before or inner.final_layer_norm is None or inner.project_in is not None:
        return None
    if not config.layer_norm_elementwise_affine:
        return None
    layers = tuple(
        Layer(
            attention_norm=_norm(block.self_attn_layer_norm),
            projections=tuple(
                Linear(p) for p in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj)
            ),
            attention_output=Linear(block.self_attn.out_proj),
            mlp_norm=_norm(block.final_layer_norm),
            up=Linear(block.fc1),
            down=Linear(block.fc2),
        )
        for block in inner.layers
    )
    positions = inner.embed_positions
    return Weights(
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=inner.layers[0].self_attn.head_dim,
        layers=layers,
        final_norm=_norm(inner.final_layer_norm),
        head=Linear(model.lm_head),
        is_tied=model.lm_head.weight is model.get_input_embeddings().weight,
        embeddings=Embeddings(inner.embed_tokens.weight, positions.weight, positions.offset),
        rotary=None,
        activation=config.activation_function,
        is_rms=False,
        epsilon=inner.final_layer_norm.eps,
    )


def _gpt2(model: Any) -> Weights | None:
    config, inner = model.config, model.transformer
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights or config.add_cross_attention:
        return None
    layers = tuple(
        Layer(
            attention_norm=_norm(block.ln_1),
            projections=(Linear(block.attn.c_attn),),
            attention_output=Linear(block.attn.c_proj),
            mlp_norm=_norm(block.ln_2),
            up=Linear(block.mlp.c_fc),
            down=Linear(block.mlp.c_proj),
        )
        for block in inner.h
    )
    return Weights(
        heads=config.n_head,
        kv_heads=config.n_head,
        head_dim=inner.h[0].attn.head_dim,
        layers=layers,
        final_norm=_norm(inner.ln_f),
        head=Linear(model.lm_head),
        is_tied=model.lm_head.weight is model.get_input_embeddings().weight,
        embeddings=Embeddings(inner.wte.weight, inner.wpe.weight),
        rotary=None,
        activation=config.activation_function,
        is_rms=False,
        epsilon=inner.ln_f.eps,
    )


READERS: dict[str, Callable[[Any], Weights | None]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _llama,
    "opt": _opt,
    "qwen2": _llama,
    "qwen3": _llama,
}
"""By a configuration's `model_type`."""


def _norm(module: Any) -> Norm:
    return Norm(module.weight, getattr(module, "bias", None))
