"""Finds how long a sequence may be before a model runs out of positions."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from tasks.errors import EngineError

logger = logging.getLogger(__name__)


def longest_by_positions(model: Any, asked: int | None) -> int | None:
    """Returns how many positions a model has; None where its configuration names no number.

    asked: MAX_MODEL_LEN. Unless it is larger than a `rotary_switch`, that is the end, and a log line says
        why.
    """
    config = model.config.get_text_config()
    longest: int | None = getattr(config, "max_position_embeddings", None)
    switch = rotary_switch(config)
    if switch is None or (longest is not None and longest <= switch) or (asked or 0) > switch:
        return longest
    if asked is None:
        logger.warning(
            "%s rotates all positions by other factors once a sequence is longer than %d tokens: "
            "this worker takes %d tokens at most. With a larger MAX_MODEL_LEN all sequences, short ones too, "
            "have the factors of long ones",
            type(model).__name__,
            switch,
            switch,
        )
    return switch


def rotary_switch(config: Any) -> int | None:
    """Returns the length beyond which LongRoPE rotates all positions by other factors; None for other models.

    transformers decides by the longest sequence of a batch, so one sequence would change the others.
    """
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    kinds = [parameters, *(kind for kind in parameters.values() if isinstance(kind, dict))]
    switches = [
        kind["original_max_position_embeddings"] for kind in kinds if kind.get("rope_type") == "longrope"
    ]
    return min(switches, default=None)


def settle_rotary(model: Any, asked: int | None) -> None:
    """Gives a model that is to go beyond its switch the factors of long sequences from the first token on.

    Raises EngineError where its rotary positions cannot be found.
    """
    switch = rotary_switch(model.config.get_text_config())
    if switch is None or asked is None or asked <= switch:
        return
    rotaries = [module for module in model.modules() if hasattr(module, "rope_type")]
    if not rotaries:
        raise EngineError(
            f"MAX_MODEL_LEN={asked}: ENGINE=transformers runs {type(model).__name__} up to {switch} tokens "
            "only, where its rotary positions change"
        )
    for rotary in rotaries:
        _always_long(rotary, switch)


def _always_long(module: nn.Module, switch: int) -> None:
    """Shows a module one position beyond the switch with each batch, and drops that position's angles."""
    rotate = module.forward

    def forward(states: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        beyond = position_ids.new_full((*position_ids.shape[:-1], 1), switch)
        angles = rotate(states, torch.cat((position_ids, beyond), dim=-1), *args, **kwargs)
        return tuple(one[..., :-1, :] for one in angles)

    module.forward = forward
