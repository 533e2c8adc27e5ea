"""The table of rotary angles that the native decoder reads."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from worker.engine.native.rotary import RotaryAngles

HEAD_DIM, MAX_POSITIONS = 16, 700
PARAMETERS: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 1e4},
    {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
]


def table(address: int, positions: int) -> Tensor:
    """Returns [positions, head_dim] at an address."""
    numbers = (ctypes.c_float * (positions * HEAD_DIM)).from_address(address)
    return torch.tensor(list(numbers)).view(positions, HEAD_DIM)


@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda one: one["rope_type"])
def test_a_table_that_has_grown_has_the_angles_of_transformers(parameters: dict[str, Any]) -> None:
    """The model of the dynamic kind would turn all positions differently if it saw one beyond its length."""
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters=parameters,
    )
    rotary = LlamaRotaryEmbedding(config)
    expected = rotary(torch.empty(0), torch.arange(MAX_POSITIONS)[None])
    angles = RotaryAngles(rotary, MAX_POSITIONS)
    for position in (0, 255, 256, 300, MAX_POSITIONS - 1, 3):
        for address, right in zip(angles.up_to(position), expected, strict=True):
            assert torch.equal(table(address, position + 1), right[0, : position + 1])
