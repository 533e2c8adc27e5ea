"""When the native decoder runs a model, and what becomes of the model's own weights."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.engine.native_engines import engine_on, load
from tests.engine.tiny import WIDE, engine_request, generate, save_model, settings_for
from worker.engine.native import weights
from worker.engine.native.decoder import Decoder, decodable_weights
from worker.engine.native.library import NativeLibrary
from worker.engine.native.weights import READERS, Weights
from worker.engine.torch.torch_forward import TorchForward
from worker.engine.transformers.engine import TransformersEngine

pytestmark = pytest.mark.usefixtures("_restored_threads")


def test_the_models_own_weights_are_freed(tmp_path: Path, dtype: torch.dtype, library: NativeLibrary) -> None:
    save_model(tmp_path, "llama", **WIDE["llama"], tie_word_embeddings=False)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    found = decodable_weights(model)
    assert found is not None
    weights_before = sum(p.numel() for p in model.parameters())
    Decoder(found, library, 32)
    left = {name for name, p in model.named_parameters() if p.numel() and p.ndim > 1}
    assert left == {"model.embed_tokens.weight"}
    assert sum(p.numel() for p in model.parameters()) < weights_before / 2


def broken(read: Any, **changes: Any) -> Any:
    def reader(model: Any) -> Weights | None:
        found = read(model)
        return None if found is None else replace(found, **changes)

    return reader


@pytest.mark.parametrize("changes", [{"is_rms": False}, {"rotary": None}], ids=str)
def test_a_decoder_that_computes_something_else_is_not_used(
    tmp_path: Path,
    dtype: torch.dtype,
    library: NativeLibrary,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
) -> None:
    right = load(tmp_path, "llama", dtype, library)
    expected = generate(right, engine_request("one", (5, 6, 7)))
    monkeypatch.setitem(weights.READERS, "llama", broken(READERS["llama"], **changes))
    with caplog.at_level(logging.WARNING):
        engine = engine_on(tmp_path, dtype, library.isa)
    assert isinstance(engine._forward, TorchForward)
    assert "the native decoder does not compute what this LlamaForCausalLM does" in caplog.text
    if dtype == torch.float32:
        assert generate(engine, engine_request("one", (5, 6, 7))) == expected


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("opt", {"do_layer_norm_before": False}),
        ("opt", {"word_embed_proj_dim": 64}),
        ("opt", {"layer_norm_elementwise_affine": False}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("llama", {"head_dim": 24}),
        ("llama", {"hidden_act": "tanh"}),
        ("llama", {"intermediate_size": 100}),
        ("phi", {}),
    ],
    ids=str,
)
def test_other_models_run_with_torch(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    save_model(tmp_path, kind, **{**WIDE[kind], **changes})
    engine = TransformersEngine(settings_for(tmp_path))
    assert isinstance(engine._forward, TorchForward)
    assert len(generate(engine, engine_request("one", (5, 6, 7)))[0]) == 12
