"""What of ours runs in vLLM's own processes: its engine core and, below it, its workers."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.executor.multiproc_executor import WorkerProc
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from worker.engine.base import SamplingParams
from worker.engine.bound import Bound
from worker.engine.sampling import Penalties

CONTINUED = "continued"
"""Key of vLLM's `extra_args`: how many of the prompt's last ids are output of earlier attempts, and the
repetition, presence and frequency penalty."""

_run_engine_core = EngineCoreProc.run_engine_core
_run_worker = WorkerProc.worker_main


def bind_processes() -> None:
    """Let the engine core that this process starts end with it.

    Even if it is killed: otherwise the core would hold the GPU's memory, and the next worker find none.
    """
    EngineCoreProc.run_engine_core = Bound(run_engine_core)


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """vLLM's engine core, with workers that end with it.

    It is out of the reach of a Ctrl-C, which tells our worker to drain.
    """
    os.setpgid(0, 0)
    WorkerProc.worker_main = Bound(_run_worker)
    _run_engine_core(*args, **kwargs)


class ContinuedPenalties(AdapterLogitsProcessor):  # type: ignore[misc]  # vLLM has an environment of its own.
    """The penalties of sequences that an earlier attempt began.

    To vLLM their output so far is part of the prompt, which presence and frequency penalties leave out.
    """

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        continued = (params.extra_args or {}).get(CONTINUED)
        if continued is None:
            return None
        count, repetition, presence, frequency = continued
        sampling = SamplingParams(
            max_tokens=0,
            repetition_penalty=repetition,
            presence_penalty=presence,
            frequency_penalty=frequency,
        )

        def penalize(prompt_ids: list[int], output_ids: list[int], logits: Tensor) -> Tensor:
            logged_from = len(prompt_ids) - count
            # Counted anew for each token: a negative id is one that vLLM does not know yet.
            new_ids = [token_id for token_id in output_ids if token_id >= 0]
            Penalties(sampling, prompt_ids[:logged_from], prompt_ids[logged_from:] + new_ids).apply(logits)
            return logits

        return penalize
