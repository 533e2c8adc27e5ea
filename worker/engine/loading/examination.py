"""Tries a model out to find its windows, its cache, and the length up to which its output is right."""

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
    """What was found out about a model.

    samples: each layer's keys and values of one token, [1, kv_heads, 1, head_dim].
    longest: how many tokens a sequence may have for the model to be right; None where it names no number.
    trials: what the code that is to run the model has to pass.
    """

    samples: list[tuple[Tensor, Tensor]]
    windows: Windows
    longest: int | None
    trials: list[Trial]


def examine(model: Any, settings: Settings, kernel: AttentionKernel | None) -> Examination:
    """Tries a model out. Raises EngineError where its output cannot be right."""
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
    """Returns each layer's keys and values of one token, [1, kv_heads, 1, head_dim].

    It runs the model, because configurations have many names for these sizes.
    """
    cache = DynamicCache(config=model.config)
    token_ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    model(input_ids=token_ids, past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers
    if any(layer.keys is None for layer in layers):
        raise ValueError(f"{type(model).__name__} keeps no keys and values in some of its layers")
    return [(layer.keys, layer.values) for layer in layers]
