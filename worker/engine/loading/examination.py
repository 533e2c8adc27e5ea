"""What trying a model out shows: its windows, its cache, and the length up to which it is right."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from tasks.settings import Settings
from worker.engine.loading.compatibility import check_forward
from worker.engine.loading.lengths import longest_by_positions
from worker.engine.loading.styles import sliding_trial
from worker.engine.loading.trial import Trial
from worker.engine.native.attention_kernel import AttentionKernel
from worker.engine.torch.windows import Windows, layer_windows, narrowest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Examination:
    """What trying a model out has shown.

    samples: each layer's keys and values of some token [1, kv_heads, 1, head_dim].
    longest: tokens of a sequence up to which the model is right; None where it names no number.
    trials: for whatever is to run the model.
    """

    samples: list[tuple[Tensor, Tensor]]
    windows: Windows
    longest: int | None
    trials: list[Trial]


def examine(model: Any, settings: Settings, kernel: AttentionKernel | None) -> Examination:
    """Raises EngineError where the model cannot be right."""
    check_forward(model, settings)
    windows = layer_windows(model, settings.model_id)
    samples = cached_states(model)
    trials = [Trial(model, windows)]
    longest = longest_by_positions(model, settings.max_model_len)
    reach, wanted = narrowest(windows), settings.max_model_len or longest
    if reach is not None and (wanted is None or wanted > reach):
        sliding = sliding_trial(model, samples, windows, kernel)
        if sliding is not None:
            trials.append(sliding)
        else:
            longest = reach
            logger.warning(
                "ENGINE=transformers does not run the %s of this %s beyond %d tokens: "
                "this worker takes %d tokens at most",
                " and ".join(kind for kind, window in windows.items() if window is not None),
                type(model).__name__,
                reach,
                reach,
            )
    return Examination(samples, windows, longest, trials)


@torch.inference_mode()
def cached_states(model: Any) -> list[tuple[Tensor, Tensor]]:
    """A token's keys and values [1, kv_heads, 1, head_dim] of each layer.

    By trying it, as configurations name their sizes variously.
    """
    cache = DynamicCache(config=model.config)
    token_ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    model(input_ids=token_ids, past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers
    if any(layer.keys is None for layer in layers):
        raise ValueError(f"{type(model).__name__} keeps no keys and values in some of its layers")
    return [(layer.keys, layer.values) for layer in layers]
