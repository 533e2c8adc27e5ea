"""Which options of a request vLLM takes, and what happens to the others. Works without vLLM."""

from __future__ import annotations

from collections.abc import Collection

from tasks.errors import EngineError
from tasks.request import SamplingOptions

NOT_PASSED_ON = frozenset({"n", "stop", "max_tokens", "temperature", "seed", "ignore_eos"})
"""Options that vLLM gets in another way than by the same name, or that the worker handles itself."""


def same_options(options: type[SamplingOptions], vllm_fields: Collection[str]) -> frozenset[str]:
    """Returns the options that mean the same to vLLM, by name."""
    return frozenset(options.model_fields.keys() & vllm_fields) - NOT_PASSED_ON


def refuse_lacking(request: SamplingOptions, vllm_fields: Collection[str]) -> None:
    """Raises EngineError, which names the option, if a request uses an option that vLLM lacks.

    vllm_fields: the fields of vLLM's own parameters.
    """
    for name, field in type(request).model_fields.items():
        if name not in SamplingOptions.model_fields or name in NOT_PASSED_ON or name in vllm_fields:
            continue
        if getattr(request, name) != field.get_default(call_default_factory=True):
            raise EngineError(f"{name}: the vLLM engine does not have this option")
