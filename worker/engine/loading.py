"""Loads a causal language model and its tokenizer, or says in one line why that cannot be."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.utils import logging as transformers_logging

from tasks.errors import EngineError, SettingsError, TokenrelayError, first_line
from tasks.settings import Settings, model_folder
from worker.cores import usable_cores
from worker.engine.checkpoint import check_tensors, without_loading_report
from worker.engine.compatibility import check_source, has_sdpa
from worker.engine.eos import find_eos_ids
from worker.engine.forward import Forward
from worker.engine.kv_budget import KvBudget, kv_budget
from worker.engine.lengths import longest_by_positions, settle_rotary
from worker.engine.masks import Masks
from worker.engine.native.attention import AttentionKernel
from worker.engine.native.decoder import Decoder, decodable_weights
from worker.engine.native.forward import NativeForward
from worker.engine.native.library import NativeLibrary, native_library
from worker.engine.native.rows import RowStates, is_uniform
from worker.engine.native.sampler import NativeSampler
from worker.engine.native.weights import Weights
from worker.engine.packing import can_pack, pack_linears
from worker.engine.precision import in_fast_type
from worker.engine.proven import prove_style, sliding_trial
from worker.engine.sampling import Sample, sample
from worker.engine.slot_cache import SlotStates
from worker.engine.threads import FittingThreads
from worker.engine.tokenizer import load_tokenizer
from worker.engine.torch_forward import TorchForward
from worker.engine.trial import Trial
from worker.engine.windows import Windows, layer_windows, narrowest

BUNDLED_MODEL = Path(__file__).parent.parent / "models" / "bundled"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device, ready to run.

    vocab_size: ids that it can be fed, which may be more than the tokenizer has.
    max_model_len: tokens, as the settings or the model want it.
    eos_ids: any of them ends a sequence; see `find_eos_ids`.
    """

    tokenizer: Any
    vocab_size: int
    max_model_len: int
    eos_ids: frozenset[int]
    forward: Forward
    sample: Sample


def load_model(settings: Settings) -> LoadedModel:
    """Raises SettingsError where a setting cannot be met, EngineError where the model cannot be loaded."""
    device = _device(settings)
    if device.type == "cpu":
        _keep_to_usable_cores()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    source = model_source(settings)
    with _errors_in_one_line(settings):
        check_source(source, settings.model_id)
    tokenizer = load_tokenizer(source, settings.model_id)
    library = native_library(settings.native_isa) if device.type == "cpu" else None
    kernel = None if library is None else AttentionKernel(library)
    model = _pretrained(settings, device)
    if library is None or decodable_weights(model) is None:
        model = in_fast_type(model, settings)
    with _errors_in_one_line(settings):
        examined = _examine(model, settings, kernel)
    bytes_per_token = sum(one.nbytes for pair in examined.samples for one in pair)
    budget = kv_budget(settings, examined.longest, bytes_per_token, device)
    vocab_size = model.get_input_embeddings().num_embeddings
    return LoadedModel(
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        max_model_len=budget.max_model_len,
        eos_ids=find_eos_ids(source, tokenizer, vocab_size),
        forward=_with_fitting_threads(_forward(model, examined, budget, settings, library), device),
        sample=sample if library is None else NativeSampler(library),
    )


def _pretrained(settings: Settings, device: torch.device) -> Any:
    with _errors_in_one_line(settings), without_loading_report():
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
def _errors_in_one_line(settings: Settings) -> Iterator[None]:
    """Turns whatever transformers raises over somebody's files into an EngineError that names MODEL_ID."""
    try:
        yield
    except TokenrelayError:
        raise
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise EngineError(f"MODEL_ID={settings.model_id} cannot be loaded: {first_line(error)}") from error
    except Exception as error:
        # A configuration that nobody foresaw. A KeyError says only the key, a validator has several lines.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise EngineError(f"MODEL_ID={settings.model_id} cannot be loaded: {reason}") from error


@dataclass(frozen=True, slots=True)
class _Examined:
    """What trying a model out has shown.

    samples: each layer's keys and values of some token [1, kv_heads, 1, head_dim].
    longest: tokens of a sequence up to which the model is right; None where it names no number.
    trials: for whatever is to run the model.
    """

    samples: list[tuple[Tensor, Tensor]]
    windows: Windows
    longest: int | None
    trials: list[Trial]


def _examine(model: Any, settings: Settings, kernel: AttentionKernel | None) -> _Examined:
    """Raises EngineError where the model cannot be right."""
    _check_forward(model, settings)
    windows = layer_windows(model, settings.model_id)
    samples = _cached_states(model)
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
    return _Examined(samples, windows, longest, trials)


def _forward(
    model: Any,
    examined: _Examined,
    budget: KvBudget,
    settings: Settings,
    library: NativeLibrary | None,
) -> Forward:
    """The model in C where that is possible, else by torch. Raises EngineError where neither is right."""
    samples, is_int8 = examined.samples, settings.dtype == "int8"
    max_model_len = budget.max_model_len
    weights = None if library is None else _native_weights(model, examined, max_model_len)
    if library is not None and weights is not None:
        # It takes them, so that the model itself cannot run any more.
        decoder = Decoder(weights, library, is_int8=is_int8)
        tried = NativeForward(decoder, RowStates(samples, Trial.ROWS, max_model_len))
        if examined.trials[0].is_passed_by(tried, is_int8=is_int8):
            rows = RowStates(samples, settings.max_num_seqs, max_model_len, budget.tokens)
            return NativeForward(decoder, rows)
        logger.warning(
            "this worker is slower than it could be: the native decoder does not compute what this %s does",
            type(model).__name__,
        )
        model = _pretrained(settings, model.device)
    if is_int8:
        raise SettingsError(
            "DTYPE=int8: only the native decoder has it, and it does not run "
            + (f"this {type(model).__name__}" if library is not None else "here; the log says why")
        )
    if can_pack(model.device, model.dtype):
        pack_linears(model)
    kernel = None if library is None else AttentionKernel(library)
    style = prove_style(model, samples, examined.trials, kernel, settings.model_id)
    states = SlotStates(samples, settings.max_num_seqs, max_model_len, budget.tokens)
    return TorchForward(model, states, Masks(style, model.dtype, examined.windows))


def _native_weights(model: Any, examined: _Examined, max_model_len: int) -> Weights | None:
    """None where the native decoder cannot run the model."""
    weights = decodable_weights(model) if is_uniform(examined.samples) else None
    reach = narrowest(examined.windows)
    if weights is not None and reach is not None and max_model_len > reach:
        logger.warning(
            "this worker is slower than it could be: the native decoder has no windows; "
            "with MAX_MODEL_LEN=%d it would run natively",
            reach,
        )
        return None
    return weights


def _keep_to_usable_cores() -> None:
    """torch counts the machine's cores; a container may have fewer. OMP_NUM_THREADS lowers the count."""
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


def _with_fitting_threads(forward: Forward, device: torch.device) -> Forward:
    """A forward that computes with up to as many threads as torch has now, where that is a choice."""
    most = torch.get_num_threads()
    if device.type != "cpu" or most == 1:
        return forward
    return FittingThreads(forward, most, torch.set_num_threads)


def model_source(settings: Settings) -> str:
    """The folder or hub id to load from. Raises SettingsError where there is no such folder."""
    if settings.model_id == "bundled":
        if not BUNDLED_MODEL.is_dir():
            raise SettingsError(f"MODEL_ID=bundled: this installation has no {BUNDLED_MODEL}")
        return str(BUNDLED_MODEL)
    folder = model_folder(settings.model_id)
    if folder is None:
        return settings.model_id
    if not folder.is_dir():
        raise SettingsError(f"MODEL_ID={settings.model_id}: there is no such folder")
    return str(folder)


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
    if settings.dtype == "int8":
        if device.type != "cpu":
            raise SettingsError(f"DTYPE=int8: only CPUs have it, not DEVICE={device}")
        return torch.float32
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


@torch.inference_mode()
def _cached_states(model: Any) -> list[tuple[Tensor, Tensor]]:
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
