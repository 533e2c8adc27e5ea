"""Chooses what runs a model: the native decoder where it is right, else torch in the fastest right style."""

from __future__ import annotations

import logging
from typing import Any

from tasks.errors import SettingsError
from tasks.settings import Settings
from worker.engine.forward import Forward
from worker.engine.loading.examination import Examination
from worker.engine.loading.kv_budget import KvBudget
from worker.engine.loading.pretrained import pretrained
from worker.engine.loading.styles import prove_style
from worker.engine.loading.trial import Trial
from worker.engine.native.attention_kernel import AttentionKernel
from worker.engine.native.decoder import Decoder, decodable_weights
from worker.engine.native.library import NativeLibrary
from worker.engine.native.native_forward import NativeForward
from worker.engine.native.rows import RowStates, is_uniform
from worker.engine.native.weights import Weights
from worker.engine.torch.masks import Masks
from worker.engine.torch.packing import can_pack, pack_linears
from worker.engine.torch.slot_cache import SlotStates
from worker.engine.torch.torch_forward import TorchForward
from worker.engine.torch.windows import narrowest

logger = logging.getLogger(__name__)


def choose_forward(
    model: Any,
    examination: Examination,
    budget: KvBudget,
    settings: Settings,
    library: NativeLibrary | None,
) -> Forward:
    """Returns what runs the model, natively or by torch. Raises EngineError where neither is right."""
    samples, is_int8 = examination.samples, settings.dtype == "int8"
    max_model_len = budget.max_model_len
    weights = None if library is None else _native_weights(model, examination, max_model_len)
    if library is not None and weights is not None:
        # The decoder takes the weights, so the model itself cannot run any more.
        decoder = Decoder(weights, library, max_model_len, is_int8=is_int8)
        tried = NativeForward(decoder, RowStates(samples, Trial.ROWS, max_model_len))
        if examination.trials[0].is_passed_by(tried, is_int8=is_int8):
            rows = RowStates(samples, settings.max_num_seqs, max_model_len, budget.tokens)
            return NativeForward(decoder, rows)
        logger.warning(
            "this worker is slower than it could be: the native decoder does not compute what this %s does",
            type(model).__name__,
        )
        model = pretrained(settings, model.device)
    if is_int8:
        raise SettingsError(
            "DTYPE=int8: only the native decoder has it, and it does not run "
            + (f"this {type(model).__name__}" if library is not None else "here; the log says why")
        )
    if can_pack(model.device, model.dtype):
        pack_linears(model)
    kernel = None if library is None else AttentionKernel(library)
    style = prove_style(model, samples, examination.trials, kernel, settings.model_id)
    states = SlotStates(samples, settings.max_num_seqs, max_model_len, budget.tokens)
    return TorchForward(model, states, Masks(style, model.dtype, examination.windows))


def _native_weights(model: Any, examination: Examination, max_model_len: int) -> Weights | None:
    """Returns None where the native decoder cannot run the model."""
    weights = decodable_weights(model) if is_uniform(examination.samples) else None
    reach = narrowest(examination.windows)
    if weights is not None and reach is not None and max_model_len > reach:
        logger.warning(
            "this worker is slower than it could be: the native decoder has no windows; "
            "with MAX_MODEL_LEN=%d it would run natively",
            reach,
        )
        return None
    return weights
