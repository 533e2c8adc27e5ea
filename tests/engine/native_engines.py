"""Engines on tiny models that run natively."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.engine.tiny import WIDE, save_model, settings_for
from worker.engine.native.library import NativeLibrary
from worker.engine.native.native_forward import NativeForward
from worker.engine.transformers.engine import TransformersEngine


def load(
    folder: Path, kind: str, dtype: torch.dtype, library: NativeLibrary, **changes: Any
) -> TransformersEngine:
    save_model(folder, kind, **{**WIDE[kind], **changes})
    engine = engine_on(folder, dtype, library.isa)
    assert isinstance(engine._forward, NativeForward)
    return engine


def engine_on(folder: Path, dtype: torch.dtype, isa: str) -> TransformersEngine:
    name = str(dtype).removeprefix("torch.")
    return TransformersEngine(settings_for(folder, dtype=name, native_isa=isa, max_num_seqs=8))
