"""DTYPE=int8: weights of linear layers have 8 bits and a scale per output, in the native decoder only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tasks.errors import SettingsError
from tests.engine.tiny import WIDE, Outputs, engine_request, save_model, settings_for
from worker.engine.forward import Chunk
from worker.engine.native.decoder import HIGHEST_INT8, quantized
from worker.engine.native.library import NativeLibrary
from worker.engine.native.native_forward import NativeForward
from worker.engine.native.weights import READERS
from worker.engine.sampling import NO_TOKEN
from worker.engine.transformers.engine import TransformersEngine

BLOCK = 256
"""How many inputs product.h rounds together."""

PROMPTS = [tuple((7 * index + 3 * row) % 290 + 2 for index in range(3 + 5 * row)) for row in range(6)]


@torch.inference_mode()
def rounded_model(folder: Path) -> Any:
    """Returns transformers' model with each linear weight rounded to 8 bits and back."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    embedding = model.get_input_embeddings().weight.data.clone()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            is_conv = isinstance(module, Conv1D)
            weight = module.weight.data.T if is_conv else module.weight.data
            whole, scales = quantized(weight)
            weight = whole * scales[:, None]
            module.weight = torch.nn.Parameter(weight.T.contiguous() if is_conv else weight)
    # If the head shares the embedding's weight, only the head's copy is rounded.
    model.get_input_embeddings().weight = torch.nn.Parameter(embedding)
    return model.eval()


def load(folder: Path, kind: str, isa: str, **changes: Any) -> TransformersEngine:
    save_model(folder, kind, **WIDE[kind], **changes)
    return load_saved(folder, isa)


def load_saved(folder: Path, isa: str) -> TransformersEngine:
    engine = TransformersEngine(settings_for(folder, dtype="int8", native_isa=isa, max_num_seqs=8))
    assert isinstance(engine._forward, NativeForward)
    return engine


@pytest.mark.parametrize(
    ("kind", "changes"),
    [*((kind, {}) for kind in sorted(READERS)), ("llama", {"intermediate_size": 2 * BLOCK + 48})],
)
def test_it_computes_with_the_rounded_weights(
    tmp_path: Path, kind: str, changes: dict[str, Any], library: NativeLibrary
) -> None:
    engine = load(tmp_path, kind, library.isa, **changes)
    model = rounded_model(tmp_path)
    token_ids = list(PROMPTS[5])
    with torch.inference_mode():
        expected = model(torch.tensor([token_ids])).logits[0]
        answer = engine._forward.run([Chunk(0, 0, token_ids, wants_logits=True)])
    spread = (expected.max() - expected.min()).item()
    torch.testing.assert_close(answer.logits[0], expected[-1], rtol=0, atol=1e-4 * spread)
    assert answer.best == [expected[-1].argmax().item()]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_sequence_is_the_same_alone_and_in_a_batch(
    tmp_path: Path, library: NativeLibrary, temperature: float
) -> None:
    engine = load(tmp_path, "llama", library.isa)
    requests = [
        engine_request(f"r{index}", prompt, temperature=temperature, seed=index, max_tokens=20)
        for index, prompt in enumerate(PROMPTS)
    ]
    alone: dict[str, list[int]] = {}
    for request in requests:
        outputs = Outputs(engine)
        engine.add_request(request)
        alone |= outputs.run().token_ids
    outputs = Outputs(engine)
    for request in requests:
        engine.add_request(request)
    assert outputs.run().token_ids == alone


def test_an_input_far_above_the_others_costs_them_little(tmp_path: Path, library: NativeLibrary) -> None:
    """In real models, a few inputs are many times as large as the rest of their block."""
    save_model(tmp_path, "llama", **WIDE["llama"])
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight[5] = layer.post_attention_layernorm.weight[5] = 20
            attention, mlp = layer.self_attn, layer.mlp
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                linear.weight[:, 5] /= 20
    model.save_pretrained(tmp_path)
    engine, expected_model = load_saved(tmp_path, library.isa), rounded_model(tmp_path)
    with torch.inference_mode():
        expected = expected_model(torch.tensor([PROMPTS[5]])).logits[0, -1]
        answer = engine._forward.run([Chunk(0, 0, list(PROMPTS[5]), wants_logits=True)])
    spread = (expected.max() - expected.min()).item()
    torch.testing.assert_close(answer.logits[0], expected, rtol=0, atol=2e-3 * spread)


@pytest.mark.parametrize("spoiler", [torch.nan, torch.inf])
def test_nan_is_no_token_and_spoils_no_other_sequence(
    tmp_path: Path, library: NativeLibrary, spoiler: float
) -> None:
    save_model(tmp_path, "llama", **WIDE["llama"], tie_word_embeddings=False)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        model.get_input_embeddings().weight[9, 3] = spoiler
    model.save_pretrained(tmp_path)
    engine = load_saved(tmp_path, library.isa)
    chunks = [
        Chunk(row, 0, token_ids, wants_logits=False) for row, token_ids in enumerate(([5, 6], [9], [7]))
    ]
    undisturbed = engine._forward.run([chunks[0], Chunk(1, 0, [8], wants_logits=False), chunks[2]]).best
    best = engine._forward.run(chunks).best
    assert best == [undisturbed[0], NO_TOKEN, undisturbed[2]]
    assert NO_TOKEN not in undisturbed


def test_a_weight_is_off_by_half_a_step_at_most() -> None:
    weight = torch.randn(40, 96) * torch.logspace(-4, 4, 40)[:, None]
    weight[7] = 0
    whole, scales = quantized(weight)
    assert whole.dtype == torch.int8
    assert (whole.abs() <= HIGHEST_INT8).all()
    off = (whole * scales[:, None] - weight).abs()
    assert (off <= scales[:, None] / 2 * (1 + 1e-5)).all()
    assert not whole[7].any()


@pytest.mark.parametrize(("kind", "isa"), [("llama", "none"), ("phi", "auto")])
def test_it_is_refused_without_the_native_decoder(tmp_path: Path, kind: str, isa: str) -> None:
    save_model(tmp_path, kind)
    with pytest.raises(SettingsError, match=r"^DTYPE=int8: only the native decoder has it") as caught:
        TransformersEngine(settings_for(tmp_path, dtype="int8", native_isa=isa))
    assert "\n" not in str(caught.value)
