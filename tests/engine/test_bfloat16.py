"""In bfloat16 on a CPU, weights are packed. Tokens are the float32 model's best ones, or nearly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tests.engine.tiny import CONFIGS, WIDE, engine_request, generate, save_model, settings_for
from worker.engine.torch.packing import PackedLinear, can_pack, pack_linears
from worker.engine.torch.torch_forward import TorchForward
from worker.engine.transformers.engine import TransformersEngine

TOLERANCE = 0.05
"""How far a token's logit may be below the best one, as a share of the range of a step's logits."""

CPU = torch.device("cpu")

needs_packing = pytest.mark.skipif(
    not can_pack(CPU, torch.bfloat16), reason="this CPU has no bfloat16 arithmetic"
)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_tokens_are_the_best_or_nearly(tmp_path: Path, kind: str, wide: bool) -> None:
    save_model(tmp_path, kind, **(WIDE[kind] if wide else {}))
    engine = TransformersEngine(settings_for(tmp_path, dtype="bfloat16"))
    prompts = [tuple(range(10, 12 + 7 * index)) for index in range(4)]
    outputs = generate(engine, *(engine_request(str(i), p, max_tokens=30) for i, p in enumerate(prompts)))
    rounded: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    reference = rounded.float().eval()
    for prompt, output in zip(prompts, outputs, strict=True):
        with torch.inference_mode():
            logits = reference(torch.tensor([[*prompt, *output]])).logits[0, len(prompt) - 1 : -1]
        best, worst = logits.amax(dim=-1), logits.amin(dim=-1)
        chosen = logits.gather(-1, torch.tensor(output)[:, None])[:, 0]
        assert ((best - chosen) / (best - worst)).max() < TOLERANCE


@needs_packing
@pytest.mark.parametrize("kind", ["opt", "gpt2", "llama", "qwen2"])
def test_all_linear_layers_are_packed(tmp_path: Path, kind: str) -> None:
    engine = TransformersEngine(settings_for(save_model(tmp_path, kind), dtype="bfloat16"))
    layers = [type(module) for module in torch_model(engine).modules()]
    assert layers.count(PackedLinear) >= 9
    assert layers.count(nn.Linear) == layers.count(Conv1D) == 0


def torch_model(engine: TransformersEngine) -> nn.Module:
    assert isinstance(engine._forward, TorchForward)
    model: nn.Module = engine._forward._model
    return model


def test_float32_is_not_packed(tmp_path: Path) -> None:
    engine = TransformersEngine(settings_for(save_model(tmp_path)))
    assert not any(isinstance(module, PackedLinear) for module in torch_model(engine).modules())


@needs_packing
@pytest.mark.parametrize("rows", [1, 2, 31, 64, 300])
@pytest.mark.parametrize("with_bias", [True, False])
@torch.inference_mode()
def test_a_packed_layer_computes_the_same(rows: int, with_bias: bool) -> None:
    torch.manual_seed(rows)
    plain = nn.Sequential(nn.Linear(48, 80, bias=with_bias), Conv1D(24, 80))  # type: ignore[no-untyped-call]
    plain = plain.to(torch.bfloat16)
    states = torch.randn(2, rows, 48, dtype=torch.bfloat16)
    expected = plain.float()(states.float())
    pack_linears(plain.to(torch.bfloat16))
    torch.testing.assert_close(plain(states).float(), expected, atol=0.02, rtol=0.02)


@needs_packing
@torch.inference_mode()
def test_a_subclass_of_a_linear_layer_is_not_packed() -> None:
    class Doubled(nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(states)

    model = nn.Sequential(Doubled(4, 4)).to(torch.bfloat16)
    pack_linears(model)
    assert type(model[0]) is Doubled
