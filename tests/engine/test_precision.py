"""If the processor has no instructions for bfloat16, torch computes in float32 instead."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.engine.tiny import engine_request, generate, save_model, settings_for
from worker.engine.loading import precision
from worker.engine.native.native_forward import NativeForward
from worker.engine.torch import packing
from worker.engine.torch.torch_forward import TorchForward
from worker.engine.transformers.engine import TransformersEngine


@pytest.fixture(autouse=True)
def _no_instructions_for_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (packing, precision):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda: False)


def dtype_of(engine: TransformersEngine) -> torch.dtype:
    assert isinstance(engine._forward, TorchForward)
    dtype: torch.dtype = engine._forward._model.dtype
    return dtype


def test_bfloat16_weights_are_computed_with_in_float32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tmp_path, "llama")
    with caplog.at_level(logging.WARNING):
        engine = TransformersEngine(settings_for(tmp_path, dtype="bfloat16", native_isa="none"))
    assert dtype_of(engine) == torch.float32
    assert "DTYPE=bfloat16: this processor has no instructions for bfloat16" in caplog.text
    rounded: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    prompt = (5, 6, 7, 8)
    expected = rounded.float().generate(
        torch.tensor([prompt]), max_new_tokens=12, min_new_tokens=12, do_sample=False
    )
    [token_ids] = generate(engine, engine_request("one", prompt))
    assert token_ids == expected[0, len(prompt) :].tolist()


def test_bfloat16_stays_if_memory_does_not_suffice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "available_bytes", lambda _device: 1000)
    save_model(tmp_path, "llama")
    with caplog.at_level(logging.WARNING):
        engine = TransformersEngine(settings_for(tmp_path, dtype="bfloat16", native_isa="none"))
    assert dtype_of(engine) == torch.bfloat16
    assert "float32 would take another" in caplog.text


def test_bfloat16_stays_if_the_native_decoder_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The native decoder computes its products without torch."""
    save_model(tmp_path, "llama", hidden_size=128, head_dim=32)
    engine = TransformersEngine(settings_for(tmp_path, dtype="bfloat16"))
    assert isinstance(engine._forward, NativeForward)
    assert "float32" not in caplog.text
