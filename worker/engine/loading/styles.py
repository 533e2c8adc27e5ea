"""Finds the fastest style of masks with which torch computes the same as transformers' own code."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from tasks.errors import EngineError
from worker.engine.loading.trial import LENGTHS, Trial
from worker.engine.native.attention_kernel import AttentionKernel
from worker.engine.torch import slot_attention
from worker.engine.torch.masks import Masks, Style
from worker.engine.torch.slot_cache import SlotStates
from worker.engine.torch.torch_forward import TorchForward
from worker.engine.torch.windows import Windows, are_sliding

Samples = Sequence[tuple[Tensor, Tensor]]
"""Each layer's keys and values of one token, [1, heads, 1, head_dim]."""

logger = logging.getLogger(__name__)


def prove_style(
    model: Any, samples: Samples, trials: Sequence[Trial], kernel: AttentionKernel | None, model_id: str
) -> Style:
    """Sets the model to the fastest style in which it passes its trials, and returns that style.

    Raises EngineError where there is none.
    """
    fastest = next(_styles(model, samples, kernel))
    style = right_style(model, samples, trials, kernel, model_id)
    if style is not fastest:
        logger.warning(
            "this worker is slower than it could be: %s is right only where masks are given %s",
            type(model).__name__,
            style.value,
        )
    _set_attention(model, style, kernel)
    return style


def right_style(
    model: Any, samples: Samples, trials: Sequence[Trial], kernel: AttentionKernel | None, model_id: str
) -> Style:
    """Returns the fastest style in which the model passes its trials. The model is left as it was.

    Raises EngineError where there is none, naming the model's type.
    """
    loaded_with = model.config._attn_implementation
    reason = "its answers differ from those of transformers' own code by more than rounding"
    for style in list(_styles(model, samples, kernel)):
        _set_attention(model, style, kernel)
        try:
            if all(trial.is_passed_by(_trial_forward(model, samples, style, trial)) for trial in trials):
                return style
        except Exception as error:  # A model's code may fail in any way where it lacks a mask.
            logger.debug("%s does not run in the style %s", type(model).__name__, style.name, exc_info=True)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        finally:
            if model._can_set_attn_implementation():
                model.set_attn_implementation(loaded_with)
    raise EngineError(
        f"MODEL_ID={model_id}: ENGINE=transformers cannot run this {type(model).__name__} "
        f"({model.config.model_type}): {reason}"
    )


def sliding_trial(
    model: Any, samples: Samples, windows: Windows, kernel: AttentionKernel | None
) -> Trial | None:
    """Returns a trial for sequences longer than the windows; None where the model fails it in all styles.

    Such a model ignores the masks that it is given.
    """
    if not are_sliding(windows):
        return None
    trial = Trial.with_narrow_windows(model, windows)
    try:
        right_style(model, samples, [trial], kernel, "")
    except EngineError as error:
        logger.debug("%s", error)
        return None
    return trial


def _styles(model: Any, samples: Samples, kernel: AttentionKernel | None) -> Iterator[Style]:
    """Yields the styles to try, the fastest first."""
    if model.config._attn_implementation == "eager":
        yield Style.ADDED  # It was loaded with this because it has nothing else.
        return
    is_on_cpu = slot_attention.is_decoded_by_products(model.device)
    if not _has_slot_attention(model) or not is_on_cpu:
        yield Style.IMPLICIT
    elif kernel is not None and _fits_kernel(model, samples):
        yield Style.KERNEL
    else:
        yield Style.PRODUCTS
    yield from (Style.BOOLEAN, Style.ADDED)


def _set_attention(model: Any, style: Style, kernel: AttentionKernel | None) -> None:
    if style is not Style.ADDED and _has_slot_attention(model):
        slot_attention.use_slot_attention(model, kernel)
    elif model._can_set_attn_implementation():
        model.set_attn_implementation("eager" if style is Style.ADDED else "sdpa")


def _has_slot_attention(model: Any) -> bool:
    return bool(model._supports_attention_backend) and model._can_set_attn_implementation()


def _trial_forward(model: Any, samples: Samples, style: Style, trial: Trial) -> TorchForward:
    states = SlotStates(samples, max_rows=Trial.ROWS, max_tokens=max(LENGTHS))
    return TorchForward(model, states, Masks(style, model.dtype, trial.windows))


def _fits_kernel(model: Any, samples: Samples) -> bool:
    """Whether all layers' attention is of a shape that the kernel takes."""
    heads = getattr(model.config.get_text_config(), "num_attention_heads", None)
    if heads is None:
        return False
    return all(
        keys.shape == values.shape
        and AttentionKernel.takes(keys.dtype, heads, kv_heads=keys.shape[1], head_dim=keys.shape[3])
        for keys, values in samples
    )
