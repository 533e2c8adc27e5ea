"""Loads a causal language model and its tokenizer, or says in one line why that cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from tasks.errors import SettingsError
from tasks.settings import Settings
from worker.cores import usable_cores
from worker.engine.forward import Forward
from worker.engine.loading.compatibility import check_source
from worker.engine.loading.examination import examine
from worker.engine.loading.forward_choice import choose_forward
from worker.engine.loading.kv_budget import kv_budget
from worker.engine.loading.precision import in_fast_type
from worker.engine.loading.pretrained import errors_in_one_line, pretrained
from worker.engine.model_files import model_source
from worker.engine.native.attention_kernel import AttentionKernel
from worker.engine.native.decoder import decodable_weights
from worker.engine.native.library import native_library
from worker.engine.native.sampler import NativeSampler
from worker.engine.sampling import Sample, sample
from worker.engine.text.eos import find_eos_ids
from worker.engine.text.tokenizer import load_tokenizer
from worker.engine.threads import FittingThreads


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device, ready to run.

    vocab_size: how many ids the model knows, which may be more than the tokenizer has.
    max_model_len: the most tokens of a sequence.
    eos_ids: each of them ends a sequence; see `find_eos_ids`.
    """

    tokenizer: Any
    vocab_size: int
    max_model_len: int
    eos_ids: frozenset[int]
    forward: Forward
    sample: Sample


def load_model(settings: Settings) -> LoadedModel:
    """Loads a model. Raises SettingsError where a setting cannot be met, EngineError where loading fails."""
    device = _device(settings)
    if device.type == "cpu":
        _keep_to_usable_cores()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    source = model_source(settings)
    with errors_in_one_line(settings):
        check_source(source, settings.model_id)
    tokenizer = load_tokenizer(source, settings.model_id)
    library = native_library(settings.native_isa) if device.type == "cpu" else None
    kernel = None if library is None else AttentionKernel(library)
    model = pretrained(settings, device)
    if library is None or decodable_weights(model) is None:
        model = in_fast_type(model, settings)
    with errors_in_one_line(settings):
        examination = examine(model, settings, kernel)
    bytes_per_token = sum(one.nbytes for pair in examination.samples for one in pair)
    budget = kv_budget(settings, examination.longest, bytes_per_token, device)
    vocab_size = model.get_input_embeddings().num_embeddings
    return LoadedModel(
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        max_model_len=budget.max_model_len,
        eos_ids=find_eos_ids(source, tokenizer, vocab_size),
        forward=_with_fitting_threads(choose_forward(model, examination, budget, settings, library), device),
        sample=sample if library is None else NativeSampler(library),
    )


def _device(settings: Settings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(settings.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"DEVICE={settings.device}: this machine shows {torch.cuda.device_count()} CUDA devices to torch"
        )
    return device


def _keep_to_usable_cores() -> None:
    """Lowers torch's number of threads, which counts the machine's cores; a container may have fewer."""
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


def _with_fitting_threads(forward: Forward, device: torch.device) -> Forward:
    """Lets a forward choose among numbers of threads up to torch's present one, where it has a choice."""
    most = torch.get_num_threads()
    if device.type != "cpu" or most == 1:
        return forward
    return FittingThreads(forward, most, torch.set_num_threads)
