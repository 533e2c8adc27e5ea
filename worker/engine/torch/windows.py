"""Sliding windows: which layers read only the last tokens, and how many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers.cache_utils import (
    DYNAMIC_LAYER_TYPE_MAPPING,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    get_layer_types_and_kwargs,
)

from tasks.errors import EngineError

Windows = Mapping[str, int | None]
"""From transformers' layer type to how many tokens a query reads; None for all. A model may have several."""

SLIDING = "sliding_attention"
"""The layer type whose window slides."""

NARROW_TOKENS = 4
"""The length of a window that the short sequences of a trial exceed."""


def layer_windows(model: Any, model_id: str) -> Windows:
    """Returns the windows of a model's layers. Raises EngineError for layers that are no attention."""
    windows: dict[str, int | None] = {}
    for kind, options in zip(*get_layer_types_and_kwargs(_config(model)), strict=True):
        layer = DYNAMIC_LAYER_TYPE_MAPPING[kind]
        if layer not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise EngineError(
                f"MODEL_ID={model_id}: ENGINE=transformers runs attention layers only, "
                f"this model has {layer.__name__}"
            )
        window = options.get("sliding_window")
        known = windows.setdefault(kind, window)
        if window is not None and known is not None:
            windows[kind] = min(known, window)
    return windows


def narrowest(windows: Windows) -> int | None:
    """Returns up to how many tokens all attention is full; None where it always is."""
    return min((window for window in windows.values() if window is not None), default=None)


def are_sliding(windows: Windows) -> bool:
    """Whether all windows slide token by token, as those of chunked attention do not."""
    return all(kind == SLIDING for kind, window in windows.items() if window is not None)


def narrowed(windows: Windows) -> Windows:
    """Returns the same layer types with windows of `NARROW_TOKENS`."""
    return {kind: None if window is None else NARROW_TOKENS for kind, window in windows.items()}


@contextmanager
def with_narrow_windows(model: Any) -> Iterator[None]:
    """Makes transformers' own masks have sliding windows of `NARROW_TOKENS`."""
    config = _config(model)
    before = config.sliding_window
    config.sliding_window = NARROW_TOKENS
    try:
        yield
    finally:
        config.sliding_window = before


def _config(model: Any) -> Any:
    return model.config.get_text_config(decoder=True)
