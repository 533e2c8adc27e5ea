"""Writes a Llama-shaped model in llama.cpp's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LAYER_TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
MODEL_TENSORS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
"""transformers' names -> llama.cpp's, both without ".weight"."""

QUANTIZATIONS = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0"}


def write_gguf(folder: Path, path: Path, precision: str) -> None:
    """Writes all matrices in this precision, and vectors in float32, as llama.cpp's own converter does."""
    import gguf
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    kind = gguf.GGMLQuantizationType[QUANTIZATIONS[precision]]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    _write_sizes(writer, model.config)
    for name, tensor in model.named_parameters():
        weight = tensor.detach()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = _rotary_pairs_together(weight, model.config.head_dim)
        stored = kind if weight.dim() > 1 else gguf.GGMLQuantizationType.F32
        array = np.ascontiguousarray(weight.numpy())
        writer.add_tensor(_gguf_name(name), gguf.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_sizes(writer: Any, config: Any) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("no_vocab")  # Prompts are ids.


def _rotary_pairs_together(weight: Any, head_dim: int) -> Any:
    """Reorders each head's outputs: transformers rotates i with i + half, llama.cpp 2i with 2i + 1."""
    halves = weight.unflatten(0, (-1, 2, head_dim // 2))
    return halves.transpose(1, 2).flatten(0, 2)


def _gguf_name(name: str) -> str:
    name = name.removesuffix(".weight")
    if name in MODEL_TENSORS:
        return f"{MODEL_TENSORS[name]}.weight"
    _, _, layer, within = name.split(".", 3)
    return f"blk.{layer}.{LAYER_TENSORS[within]}.weight"
