"""Has transformers load a checkpoint, or says in one line why that cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from tasks.errors import EngineError, SettingsError, TokenrelayError, first_line
from tasks.settings import Settings
from worker.engine.loading.checkpoint import check_tensors, without_loading_report
from worker.engine.loading.compatibility import has_sdpa
from worker.engine.loading.lengths import settle_rotary
from worker.engine.model_files import model_source


def pretrained(settings: Settings, device: torch.device) -> Any:
    with errors_in_one_line(settings), without_loading_report():
        source = model_source(settings)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=_dtype(settings, device),
            attn_implementation="sdpa" if has_sdpa(source) else "eager",
            trust_remote_code=False,
            # `check_tensors` names those that do not fit.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        model, loading_info = loaded
        model = model.to(device).eval()
    check_tensors(model, loading_info, settings.model_id)
    settle_rotary(model, settings.max_model_len)
    return model


@contextmanager
def errors_in_one_line(settings: Settings) -> Iterator[None]:
    """Turns whatever transformers raises about a model's files into an EngineError that names MODEL_ID."""
    try:
        yield
    except TokenrelayError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise EngineError(f"MODEL_ID={settings.model_id} cannot be loaded: {first_line(error)}") from error
    except Exception as error:
        # An unforeseen configuration. A KeyError says only the key, a validator has several lines.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise EngineError(f"MODEL_ID={settings.model_id} cannot be loaded: {reason}") from error


def _dtype(settings: Settings, device: torch.device) -> torch.dtype:
    if settings.dtype == "int8":
        if device.type != "cpu":
            raise SettingsError(f"DTYPE=int8: only CPUs have it, not DEVICE={device}")
        return torch.float32
    if settings.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, settings.dtype)
    return dtype
