"""ENGINE=vllm: vLLM's engine as an `Engine`.

vLLM runs its scheduler and its model in processes of its own (`core_process`), which step by themselves. A
step of ours takes the outputs of one of theirs. The worker handles text, stop strings and choices, as with
every engine: vLLM gets token ids and returns token ids.

A sequence that an earlier attempt began continues after prompt + logged ids, with new noise. If the client
gave a seed, the sequence has its own generator, seeded by (seed, choice, position). Otherwise vLLM draws the
noise of the whole batch together.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from typing import Any

# vLLM reports usage statistics to its authors, unless this is set before it is imported.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# The worker has threads by now, so it cannot fork its children.
os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
# `ContinuedPenalties` implements the interface of vLLM's first model runner.
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")

import vllm
from pydantic import ValidationError
from vllm.engine.arg_utils import EngineArgs
from vllm.inputs.engine import tokens_input
from vllm.platforms import current_platform
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.llm_engine import LLMEngine

from tasks.errors import EngineError, SettingsError, first_line
from tasks.job import FinishReason
from tasks.reasoning_marks import ReasoningMarks
from tasks.request import JobRequest
from tasks.settings import Settings
from tasks.structured_outputs import StructuredOutputs
from worker.cores import variables_for_vllm
from worker.engine.base import (
    EngineRequest,
    Grammar,
    Prompt,
    RequestOutput,
    decode_once,
)
from worker.engine.grammar.compiler import GrammarCompiler
from worker.engine.loading.compatibility import check_no_adapter
from worker.engine.loading.kv_budget import GIB
from worker.engine.model_files import model_source
from worker.engine.text.eos import find_eos_ids
from worker.engine.text.prompts import PromptEncoder
from worker.engine.text.tokenizer import load_tokenizer
from worker.engine.vllm import core_process
from worker.engine.vllm.options import refuse_lacking
from worker.engine.vllm.sequences import VLLM_FIELDS, output_of, params_of

OWN_VARIABLES = {
    "model": "MODEL_ID",
    "dtype": "DTYPE",
    "max_model_len": "MAX_MODEL_LEN",
    "max_num_seqs": "MAX_NUM_SEQS",
}
"""Arguments of vLLM that have a setting of their own, for all engines."""

FIXED_ARGS: dict[str, Any] = {
    "skip_tokenizer_init": True,
    "logits_processors": [core_process.ContinuedPenalties],
}
"""Arguments that this engine relies on."""

DEAD = "the vLLM engine core died; its error is in the log lines above"


class VllmEngine:
    """See the module."""

    def __init__(self, settings: Settings) -> None:
        """Starts vLLM's processes and loads the model. Raises SettingsError or EngineError."""
        _check_device(settings)
        self._model_id = settings.model
        self._max_num_seqs = settings.max_num_seqs
        source = model_source(settings)
        check_no_adapter(source, settings.model_id)
        tokenizer = load_tokenizer(source, settings.model_id)
        self._engine = _start(_engine_args(settings), settings)
        model_config = self._engine.model_config
        self._max_model_len: int = model_config.max_model_len
        self._prompts = PromptEncoder(tokenizer, settings.model, self._max_model_len)
        self._vocab_size: int = model_config.get_vocab_size()
        self._eos_ids = sorted(find_eos_ids(source, tokenizer, self._vocab_size))
        self._grammars = GrammarCompiler(
            self._vocab_size, self._eos_ids, self._prompts.special_tokens, self._prompts.token_bytes
        )
        self._running: dict[str, EngineRequest] = {}
        self._refused: list[RequestOutput] = []
        """Outputs of refused sequences, for the next step."""

    @property
    def model(self) -> str:
        return self._model_id

    @property
    def max_num_seqs(self) -> int:
        return self._max_num_seqs

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    @property
    def reasoning_marks(self) -> ReasoningMarks | None:
        return self._prompts.reasoning_marks

    @property
    def divides_outputs(self) -> bool:
        return self._prompts.divides_outputs

    def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
        """See `Engine.encode`. Also raises EngineError where the request has an option that vLLM lacks."""
        refuse_lacking(request, VLLM_FIELDS)
        return self._prompts.encode(request, now)

    def compile(self, outputs: StructuredOutputs) -> Grammar:
        return self._grammars.compile(outputs)

    def warm_up(self) -> None:
        """Decodes once: with vLLM's CPU build the first tokens take seconds."""
        decode_once(self, (0,))

    def add_request(self, request: EngineRequest) -> None:
        if request.request_id in self._running:
            raise ValueError(f"request {request.request_id} is in the batch already")
        if len(self._running) >= self._max_num_seqs:
            raise ValueError(f"all {self._max_num_seqs} slots are taken")
        self._running[request.request_id] = request
        token_ids = [*request.prompt_ids, *request.output_ids]
        try:
            self._check(token_ids)
            self._engine.add_request(
                request.request_id, tokens_input(token_ids), params_of(request, self._end_ids(request))
            )
        except EngineDeadError:
            raise EngineError(DEAD) from None
        except MemoryError:
            del self._running[request.request_id]
            raise
        except ValueError as error:
            self._refused.append(RequestOutput(request.request_id, (), FinishReason.ERROR, first_line(error)))

    def abort_request(self, request_id: str) -> None:
        if request_id in self._running:
            del self._running[request_id]
            self._refused = [output for output in self._refused if output.request_id != request_id]
            self._engine.abort_request([request_id])

    def has_unfinished_requests(self) -> bool:
        return bool(self._running)

    def step(self) -> list[RequestOutput]:
        """See `Engine.step`. Raises EngineError where vLLM's processes have died or were told to end."""
        outputs, self._refused = self._refused, []
        if len(self._running) > len(outputs):
            try:
                stepped = self._engine.step()
            except EngineDeadError:
                raise EngineError(DEAD) from None
            outputs += [self._output(one) for one in stepped if one.request_id in self._running]
        for output in outputs:
            if output.finish_reason is not None:
                del self._running[output.request_id]
        return outputs

    def progress(self) -> int:
        """Returns a constant, because each step of the core ends a step of ours, see `core_process`."""
        return 0

    def check_health(self) -> None:
        # Without VLLM_ENABLE_V1_MULTIPROCESSING the core lives in this process.
        ensure_alive = getattr(self._engine.engine_core, "ensure_alive", None)
        try:
            if ensure_alive is not None:
                ensure_alive()
        except EngineDeadError:
            raise EngineError(DEAD) from None

    def shutdown(self) -> None:
        self._engine.engine_core.shutdown()

    def _check(self, token_ids: list[int]) -> None:
        """Raises ValueError for what vLLM does not check: an id out of range would end its processes."""
        if not 0 < len(token_ids) < self._max_model_len:
            raise ValueError(f"{len(token_ids)} tokens leave no room in {self._max_model_len}")
        if not 0 <= min(token_ids) <= max(token_ids) < self._vocab_size:
            raise ValueError(f"a token id lies outside of the vocabulary of {self._vocab_size}")

    def _output(self, output: Any) -> RequestOutput:
        [completion] = output.outputs
        request = self._running[output.request_id]
        if completion.finish_reason == "abort":  # Not on our request: those are gone from `_running`.
            raise EngineError(DEAD)
        made = output_of(request, completion, self._end_ids(request))
        if made.finish_reason is not None and completion.finish_reason is None:
            self._engine.abort_request([request.request_id])
        return made

    def _end_ids(self, request: EngineRequest) -> Collection[int]:
        """Returns the ids that end a sequence."""
        return () if request.sampling.ignore_eos else self._eos_ids


def _check_device(settings: Settings) -> None:
    """Raises SettingsError where the settings name another kind of device than vLLM was built for."""
    built_for = "cpu" if current_platform.is_cpu() else "cuda"
    if settings.device == "auto":
        return
    if settings.device.startswith("cuda:"):
        raise SettingsError(
            f"DEVICE={settings.device}: with ENGINE=vllm, CUDA_VISIBLE_DEVICES chooses among several GPUs"
        )
    if settings.device != built_for:
        raise SettingsError(f"DEVICE={settings.device}: the vLLM that is installed was built for {built_for}")


def _engine_args(settings: Settings) -> dict[str, Any]:
    """Returns the arguments for vLLM. Raises SettingsError where ENGINE_ARGS has one that is not allowed."""
    for name in settings.engine_args:
        if name in OWN_VARIABLES:
            raise SettingsError(f"ENGINE_ARGS: {name} is set by {OWN_VARIABLES[name]}")
        if name in FIXED_ARGS or name not in EngineArgs.__dataclass_fields__:
            raise SettingsError(f"ENGINE_ARGS: {name} is not accepted here by vLLM {vllm.__version__}")
    is_cpu = current_platform.is_cpu()
    args: dict[str, Any] = {
        "model": model_source(settings),
        "dtype": ("float32" if is_cpu else "bfloat16") if settings.dtype == "auto" else settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "disable_log_stats": True,
        # vLLM's default is 0, with which every worker would draw the same noise after each start.
        "seed": secrets.randbelow(2**32),
    }
    # A GPU's memory belongs to its worker. vLLM takes nine tenths of it by default.
    if is_cpu or "kv_cache_gib" in settings.model_fields_set:
        args["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * GIB)
    return {**args, **settings.engine_args, **FIXED_ARGS}


def _start(args: dict[str, Any], settings: Settings) -> LLMEngine:
    if current_platform.is_cpu():
        for name, value in variables_for_vllm().items():
            os.environ.setdefault(name, value)
    core_process.bind_processes()
    try:
        return LLMEngine.from_engine_args(EngineArgs(**args))
    except ValidationError as error:
        wrong = error.errors()[0]
        message = str(wrong["msg"]).removeprefix("Value error, ")
        reason = first_line(ValueError(": ".join([*map(str, wrong["loc"]), message])))
    except (ValueError, RuntimeError, OSError, TypeError, NotImplementedError) as error:
        reason = first_line(error)
    raise EngineError(f"MODEL_ID={settings.model_id}: vLLM cannot serve it: {reason}")
