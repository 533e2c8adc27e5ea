"""Chooses the type in which torch computes: that of the weights where the processor is fast with it."""

from __future__ import annotations

import logging
from typing import Any

import torch

from tasks.settings import Settings
from worker.engine.loading.kv_budget import GIB, available_bytes
from worker.engine.torch.packing import multiplies_bfloat16

logger = logging.getLogger(__name__)


def in_fast_type(model: Any, settings: Settings) -> Any:
    """Returns a model that torch is to run, in float32 where bfloat16 is slow and memory suffices for both.

    The weights keep their values, each in twice as many bytes. A log line says what was done.
    """
    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or multiplies_bfloat16():
        return model
    more = sum(parameter.nbytes for parameter in model.parameters())
    available = available_bytes(model.device)
    if available is not None and more + settings.kv_cache_gib * GIB > available:
        logger.warning(
            "this worker is slower than it could be: this processor has no instructions for bfloat16, and "
            "float32 would take another %.3g GiB of memory",
            more / GIB,
        )
        return model
    logger.warning(
        "DTYPE=%s: this processor has no instructions for bfloat16; the worker computes in float32, "
        "which takes another %.3g GiB of memory",
        settings.dtype,
        more / GIB,
    )
    return model.float()
