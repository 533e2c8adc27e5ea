"""Which models' weights the native decoder may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tests.engine.tiny import WIDE, save_model
from worker.engine.native.weights import read_weights


class LinearWithAdapter(nn.Linear):
    """A layer like peft's, which computes more than the product with its weight."""

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states) * 1.0001


class Conv1DWithAdapter(Conv1D):
    """The same for GPT-2's kind of layer."""


@pytest.fixture
def llama(tmp_path: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(save_model(tmp_path, "llama", **WIDE["llama"]))
    return model


def test_plain_linear_layers_are_read(llama: Any) -> None:
    assert read_weights(llama) is not None


@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_a_linear_layer_that_computes_more_is_not_read(llama: Any, name: str) -> None:
    plain = llama.model.layers[1].get_submodule(name)
    llama.model.layers[1].set_submodule(name, LinearWithAdapter(plain.in_features, plain.out_features))
    assert read_weights(llama) is None


def test_a_head_that_computes_more_is_not_read(llama: Any) -> None:
    llama.lm_head = LinearWithAdapter(llama.lm_head.in_features, llama.lm_head.out_features, bias=False)
    assert read_weights(llama) is None


def test_a_layer_without_a_weight_is_not_read(llama: Any) -> None:
    """GPTQ's layers, for example, hold packed integers."""
    llama.model.layers[0].mlp.up_proj = nn.Identity()
    assert read_weights(llama) is None


def test_gpt2s_kind_of_layer_is_not_read_if_it_computes_more(tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(save_model(tmp_path, "gpt2", **WIDE["gpt2"]))
    assert read_weights(model) is not None
    changed: Any = Conv1DWithAdapter
    model.transformer.h[0].mlp.c_fc = changed(512, 128)
    assert read_weights(model) is None


def test_a_computed_weight_is_not_read(llama: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(llama.model.layers[0].mlp.up_proj)
    assert read_weights(llama) is None


def test_a_layer_with_a_hook_is_not_read(llama: Any) -> None:
    llama.model.layers[0].mlp.up_proj.register_forward_hook(lambda _module, _inputs, output: output * 1.0001)
    assert read_weights(llama) is None
