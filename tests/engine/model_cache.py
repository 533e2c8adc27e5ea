"""The memory for keys and values of an engine, for tests."""

from __future__ import annotations

import torch

from worker.engine.native.native_forward import NativeForward
from worker.engine.torch.torch_forward import TorchForward
from worker.engine.transformers.engine import TransformersEngine


def cache_of(engine: TransformersEngine) -> tuple[list[int], torch.dtype]:
    """Returns how many tokens each row has room for, and the type of its numbers."""
    forward = engine._forward
    if isinstance(forward, NativeForward):
        return [rooms for row in forward._states.rows if (rooms := row.shape[3])], forward._states.dtype
    assert isinstance(forward, TorchForward)
    keys, _ = forward._states.layers[0]
    return [keys.shape[2]] * keys.shape[0], keys.dtype
