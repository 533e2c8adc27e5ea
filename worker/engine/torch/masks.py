"""Makes masks: which tokens each query of a pass reads, in the form that the model's attention takes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

from worker.engine.torch.slot_attention import additive_mask, length_mask
from worker.engine.torch.slot_cache import Window
from worker.engine.torch.windows import Windows, narrowest

Mask = Tensor | dict[str, Tensor | None] | None
"""[rows, 1, query, tokens], for all layers or for each layer type; None: all tokens up to the query's."""


class Style(Enum):
    """How a model gets its masks, the fastest way first."""

    KERNEL = "as lengths in steps of single queries, for the kernel of attention.c"
    PRODUCTS = "as numbers to add in steps of single queries, for two matrix products"
    IMPLICIT = "only where attention is more than causal, as booleans"
    BOOLEAN = "always, as booleans"
    """For models that build their own mask from the one that they get."""
    ADDED = "always, as numbers to add to the scores"
    """For transformers' eager attention."""


class Masks:
    """Makes the masks of one model's passes."""

    def __init__(self, style: Style, dtype: torch.dtype, windows: Windows | None = None) -> None:
        """dtype: the model's. windows: those of its layers."""
        self.style = style
        self._dtype = dtype
        self._windows = windows or {}

    def of(self, window: Window, ends: Sequence[int], *, is_start: bool) -> Mask:
        """Returns the mask of a pass.

        ends: how many tokens each row has after the pass. is_start: whether all its rows begin with the pass.
        """
        masks = {
            kind: self._mask(window, ends, reach, is_start) for kind, reach in self._binding(ends).items()
        }
        if len(masks) == 1:
            return next(iter(masks.values()))
        return masks or self._mask(window, ends, None, is_start)

    def _binding(self, ends: Sequence[int]) -> Windows:
        """Returns the windows where a sequence is longer than one of them, else none."""
        reach = narrowest(self._windows)
        return {} if reach is None or max(ends) <= reach else self._windows

    def _mask(self, window: Window, ends: Sequence[int], reach: int | None, is_start: bool) -> Tensor | None:
        is_step = window.positions.shape[1] == 1
        if reach is None and self.style not in (Style.BOOLEAN, Style.ADDED):
            if is_step and self.style is Style.KERNEL:
                return length_mask(ends)
            if min(ends) == window.length if is_step else is_start:
                return None
        visible = _visible(window, reach)
        if self.style is Style.ADDED:
            lowest = torch.finfo(self._dtype).min
            zeros = torch.zeros(visible.shape, dtype=self._dtype, device=visible.device)
            return zeros.masked_fill_(~visible, lowest)[:, None]
        if is_step and self.style in (Style.KERNEL, Style.PRODUCTS):
            return additive_mask(visible[:, 0])
        return visible[:, None]


def _visible(window: Window, reach: int | None) -> Tensor:
    """Returns which tokens are visible [rows, query, tokens]: the last `reach` up to the query's own."""
    tokens = torch.arange(window.length, device=window.positions.device)
    queries = window.positions[:, :, None]
    visible = tokens <= queries
    return visible if reach is None else visible & (tokens > queries - reach)
