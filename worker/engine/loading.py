"""Loads a causal language model and its tokenizer, or says in one line why that cannot be."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils import logging

from tasks.errors import EngineError, SettingsError
from tasks.settings import Settings

BUNDLED_MODEL = Path(__file__).parent.parent / "models" / "bundled"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device, ready to run.

    layers: of its key/value cache.
    vocab_size: ids that it can be fed, which may be more than the tokenizer has.
    max_model_len: tokens, as the settings or the model want it.
    eos_ids: those of its generation config; any of them ends a sequence.
    """

    model: PreTrainedModel
    tokenizer: Any
    device: torch.device
    layers: int
    vocab_size: int
    max_model_len: int
    eos_ids: frozenset[int]


def load_model(settings: Settings) -> LoadedModel:
    """Raises SettingsError where a setting cannot be met, EngineError where the model cannot be loaded."""
    device = _device(settings)
    if device.type == "cpu":
        _spare_a_core()
    source = _source(settings)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
        # SDPA's masks are boolean; eager attention would silently add them to the scores.
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=_dtype(settings, device), attn_implementation="sdpa"
        )
        model = model.to(device).eval()
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise EngineError(f"MODEL_ID={settings.model_id} cannot be loaded: {_first_line(error)}") from error
    _check_forward(model, settings)
    layers, longest = _cache_layers(model, settings)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        device=device,
        layers=layers,
        vocab_size=model.get_input_embeddings().num_embeddings,
        max_model_len=_max_model_len(settings, longest),
        eos_ids=_eos_ids(model),
    )


def _spare_a_core() -> None:
    """Leave a core to Redis, the web and this process' other threads.

    torch's threads wait for each other, spinning, at the end of every operation: when one of them has lost
    its core, all stand still. On 2 busy cores a step of a 5 M parameter model took 45 ms on two threads,
    4 ms on one. OMP_NUM_THREADS lowers the count further.
    """
    spared = (os.cpu_count() or 1) - 1
    torch.set_num_threads(max(1, min(torch.get_num_threads(), spared)))


def _source(settings: Settings) -> str:
    """The folder or hub id to load from."""
    if settings.model_id == "bundled":
        if not BUNDLED_MODEL.is_dir():
            raise SettingsError(f"MODEL_ID=bundled: this installation has no {BUNDLED_MODEL}")
        return str(BUNDLED_MODEL)
    path = Path(settings.model_id).expanduser()
    if path.is_dir():
        return str(path)
    # A hub id is `name` or `owner/name`. Asking the hub for a mistyped folder would only take time.
    if settings.model_id.startswith(("/", ".", "~")) or len(path.parts) > 2:
        raise SettingsError(f"MODEL_ID={settings.model_id}: there is no such folder")
    return settings.model_id


def _device(settings: Settings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(settings.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"DEVICE={settings.device}: this machine shows {torch.cuda.device_count()} CUDA devices to torch"
        )
    return device


def _dtype(settings: Settings, device: torch.device) -> torch.dtype:
    if settings.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, settings.dtype)
    return dtype


def _check_forward(model: PreTrainedModel, settings: Settings) -> None:
    """Models that derive positions from the mask would be wrong in a ragged batch without a word."""
    parameters = inspect.signature(model.forward).parameters
    missing = [n for n in ("position_ids", "past_key_values", "logits_to_keep") if n not in parameters]
    if missing or getattr(model.config, "alibi", False):
        raise EngineError(
            f"MODEL_ID={settings.model_id}: ENGINE=transformers cannot run this {type(model).__name__}: "
            + (f"it takes no {missing[0]}" if missing else "it places tokens by ALiBi")
        )


def _cache_layers(model: PreTrainedModel, settings: Settings) -> tuple[int, int | None]:
    """How many layers the cache needs, and the longest sequence that it is right for."""
    longest: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    layers = DynamicCache(config=model.config).layers
    for layer in layers:
        if isinstance(layer, DynamicSlidingWindowLayer):
            # Up to its window, sliding attention is full attention.
            longest = min(longest or layer.sliding_window, layer.sliding_window)
        elif type(layer) is not DynamicLayer:
            raise EngineError(
                f"MODEL_ID={settings.model_id}: ENGINE=transformers runs attention layers only, "
                f"this model has {type(layer).__name__}"
            )
    return len(layers), longest


def _max_model_len(settings: Settings, longest: int | None) -> int:
    if longest is None and settings.max_model_len is None:
        raise SettingsError(f"MAX_MODEL_LEN must be set: MODEL_ID={settings.model_id} names no length")
    if longest is not None and (settings.max_model_len or 0) > longest:
        raise SettingsError(
            f"MAX_MODEL_LEN={settings.max_model_len}: MODEL_ID={settings.model_id} accepts {longest} at most"
        )
    return settings.max_model_len or longest or 0


def _eos_ids(model: PreTrainedModel) -> frozenset[int]:
    generation = model.generation_config
    eos = None if generation is None else generation.eos_token_id
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
