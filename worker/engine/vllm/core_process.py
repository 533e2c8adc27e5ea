"""Our code in vLLM's own processes: its engine core and the core's workers."""

from __future__ import annotations

import os
import time
from typing import Any

from torch import Tensor
from vllm.platforms import current_platform
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.executor.multiproc_executor import WorkerProc
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from worker.engine.base import SamplingParams
from worker.engine.pace import Pace
from worker.engine.penalties import Penalties
from worker.engine.vllm.bound import Bound
from worker.engine.vllm.core_grammar import use_own_grammars

CONTINUED = "continued"
"""Key of vLLM's `extra_args`. Its value: how many of the prompt's last ids earlier attempts wrote, then the
repetition, presence and frequency penalty."""

_run_engine_core = EngineCoreProc.run_engine_core
_run_worker = WorkerProc.worker_main
_process_engine_step = EngineCoreProc._process_engine_step


def bind_processes() -> None:
    """Makes the engine core that this process starts end with it, even if this process is killed.

    Otherwise the core would keep the GPU's memory, and the next worker would find none.
    """
    EngineCoreProc.run_engine_core = Bound(run_engine_core)


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """Runs vLLM's engine core, with workers that end with it.

    Its process group keeps it from getting a Ctrl-C, which only makes our worker drain.
    """
    os.setpgid(0, 0)
    WorkerProc.worker_main = Bound(run_worker)
    EngineCoreProc._process_engine_step = process_engine_step
    use_own_grammars()
    _spare_generators()
    _run_engine_core(*args, **kwargs)


def run_worker(*args: Any, **kwargs: Any) -> None:
    """Runs vLLM's worker, with a model runner for CPUs that accepts chunks of prompts with a seed."""
    _spare_generators()
    _run_worker(*args, **kwargs)


def _spare_generators() -> None:
    """Keeps the generators of unfinished prompts away from vLLM's sampling on CPUs.

    vLLM draws a token after each chunk of a prompt, discards it, and resets the sequence's generator. A CPU's
    generator cannot be reset, and the attempt ends vLLM's processes.
    """
    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner

        sample_tokens = CPUModelRunner.sample_tokens

        def sample_tokens_without_them(runner: Any, *args: Any, **kwargs: Any) -> Any:
            generators: dict[int, Any] = runner.input_batch.generators
            is_discarded = runner.discard_request_mask.np
            spared = {row: generators.pop(row) for row in list(generators) if is_discarded[row]}
            try:
                return sample_tokens(runner, *args, **kwargs)
            finally:
                generators.update(spared)

        CPUModelRunner.sample_tokens = sample_tokens_without_them


def process_engine_step(core: Any) -> Any:
    """vLLM's function, for a core whose steps are `Steps`."""
    if not isinstance(core.step_fn, Steps):
        core.step_fn = Steps(core)
    return _process_engine_step(core)


class Steps:
    """Steps of vLLM's engine core that always report their end, and on CPUs take half a second at most.

    vLLM does not report a step without tokens, such as a chunk of a long prompt before the last. To our
    watchdog that would look like a core that hangs.
    """

    def __init__(self, core: Any) -> None:
        self._step = core.step_fn
        self._scheduler = core.scheduler
        self._tokens = 0
        """How many tokens the step under way has."""
        self._most: int = core.scheduler.max_num_scheduled_tokens
        self._pace = Pace(self._most) if _needs_pace(core) else None
        if self._pace is not None:
            self._schedule = core.scheduler.schedule
            core.scheduler.schedule = self._schedule_at_pace

    def __call__(self) -> tuple[dict[int, Any] | None, bool]:
        began = time.perf_counter()
        outputs, model_executed = self._step()
        if self._pace is not None and self._tokens:
            self._pace.learn(self._tokens, time.perf_counter() - began)
        if outputs is not None and not outputs and model_executed:
            outputs = {0: EngineCoreOutputs()}  # To the only client, which is our process.
        return outputs, model_executed

    def _schedule_at_pace(self, *args: Any, **kwargs: Any) -> Any:
        """Schedules as many tokens of prompts as the pace allows, and one of each running sequence."""
        assert self._pace is not None
        scheduler = self._scheduler
        scheduler.max_num_scheduled_tokens = min(self._most, self._pace.tokens + len(scheduler.running))
        output = self._schedule(*args, **kwargs)
        self._tokens = output.total_num_scheduled_tokens
        return output


def _needs_pace(core: Any) -> bool:
    """Whether a step may take too long and can be made shorter."""
    is_chunked = core.scheduler.scheduler_config.enable_chunked_prefill
    return current_platform.is_cpu() and is_chunked and core.batch_queue is None


class ContinuedPenalties(AdapterLogitsProcessor):  # type: ignore[misc]  # vLLM has an environment of its own.
    """Applies the penalties of sequences that an earlier attempt began.

    To vLLM their output so far is part of the prompt, which its presence and frequency penalties leave out.
    """

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        continued = (params.extra_args or {}).get(CONTINUED)
        if continued is None:
            return None
        count, repetition, presence, frequency = continued
        sampling = SamplingParams(
            repetition_penalty=repetition,
            presence_penalty=presence,
            frequency_penalty=frequency,
        )

        def penalize(prompt_ids: list[int], output_ids: list[int], logits: Tensor) -> Tensor:
            logged_from = len(prompt_ids) - count
            # Counted again for each token. A negative id is one that vLLM does not know yet.
            new_ids = [token_id for token_id in output_ids if token_id >= 0]
            Penalties(sampling, prompt_ids[:logged_from], prompt_ids[logged_from:] + new_ids).apply(logits)
            return logits

        return penalize
