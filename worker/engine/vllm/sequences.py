"""What vLLM gets for a sequence of ours, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import vllm
from vllm.sampling_params import RequestOutputKind

from tasks.job import FinishReason
from tasks.request import SamplingOptions
from worker.engine.base import EngineRequest, RequestOutput, TokenLogprobs
from worker.engine.grammar.matcher import GrammarMatcher
from worker.engine.penalties import Penalties
from worker.engine.sampling import GREEDY_BELOW, LEAST_LOGPROB, noise_key
from worker.engine.vllm import core_process
from worker.engine.vllm.core_grammar import RestrictedParams, grammar_params
from worker.engine.vllm.options import same_options

PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
"""The penalties, in the order of `CONTINUED`."""

VLLM_FIELDS = vllm.SamplingParams.__struct_fields__
SAME_OPTIONS = same_options(SamplingOptions, VLLM_FIELDS)
"""Options that mean the same to vLLM."""

MAX_SEED = 2**63 - 1

LOST = "structured_outputs: vLLM's engine core cannot follow the grammar; the worker's log says why"


def params_of(request: EngineRequest, end_ids: Collection[int]) -> vllm.SamplingParams:
    """Returns a request's options as vLLM takes them. end_ids: the ids that end the sequence."""
    sampling, output_ids = request.sampling, request.output_ids
    options = {name: getattr(sampling, name) for name in SAME_OPTIONS}
    if output_ids and Penalties.of(sampling, (), ()) is not None:
        penalties = [options.pop(name) for name in PENALTIES]
        options["extra_args"] = {core_process.CONTINUED: [len(output_ids), *penalties]}
    kind = vllm.SamplingParams
    if request.matcher is not None:
        kind = RestrictedParams
        options["structured_outputs"] = grammar_params(_matcher(request), len(output_ids))
    is_greedy = sampling.temperature < GREEDY_BELOW
    # On a GPU a seed of its own costs a kernel for each sequence and step, and vLLM's fast sampler takes
    # none.
    is_unseeded = is_greedy or sampling.is_seed_drawn
    return kind(
        **options,
        max_tokens=sampling.max_tokens - len(output_ids),
        temperature=0.0 if is_greedy else sampling.temperature,
        seed=None if is_unseeded else noise_key(sampling.seed, sampling.choice, len(output_ids)) & MAX_SEED,
        # Otherwise vLLM would add the ids that it finds by itself, which may be those of another model.
        ignore_eos=True,
        stop_token_ids=list(end_ids),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def output_of(request: EngineRequest, completion: Any, end_ids: Collection[int]) -> RequestOutput:
    """Returns what a step of vLLM added to a sequence. It may end the sequence where vLLM does not.

    completion: vLLM's CompletionOutput. end_ids: the ids that end the sequence.
    """
    token_ids, reason, is_complete = tuple(completion.token_ids), completion.finish_reason, False
    if reason is not None and reason not in ("stop", "length"):
        return _failed(request, LOST if request.matcher else f"vLLM ended the sequence: {reason}")
    if request.matcher is not None:
        count, is_complete = _follow(_matcher(request), token_ids, end_ids)
        if request.matcher.failure is not None:
            return _failed(request, request.matcher.failure)
        if count < len(token_ids) and not is_complete:
            return _failed(request, LOST)
        token_ids, reason = token_ids[:count], "stop" if is_complete else reason
    logprobs, best = None, request.sampling.logprobs
    if best is not None:
        entries = completion.logprobs[: len(token_ids)]
        logprobs = tuple(_logprobs(*pair, best) for pair in zip(token_ids, entries, strict=True))
    return RequestOutput(
        request.request_id,
        token_ids,
        None if reason is None else FinishReason(reason),
        None,
        logprobs,
        is_complete and bool(token_ids),
    )


def _matcher(request: EngineRequest) -> GrammarMatcher:
    assert isinstance(request.matcher, GrammarMatcher), "the engine makes no others"
    return request.matcher


def _follow(matcher: GrammarMatcher, token_ids: Sequence[int], end_ids: Collection[int]) -> tuple[int, bool]:
    """Takes new tokens into their grammar.

    Returns how many of them belong to the output, and whether the output is complete with them.
    """
    for count, token_id in enumerate(token_ids):
        if token_id in end_ids:
            return count + 1, False
        if not matcher.fitting([token_id]):
            matcher.allowed(may_end=False)  # It finds out that the output is complete, as vLLM's core did.
            return count, matcher.is_complete
        matcher.accept(token_id)
        if matcher.is_complete:
            return count + 1, True
    return len(token_ids), False


def _failed(request: EngineRequest, error: str) -> RequestOutput:
    return RequestOutput(request.request_id, (), FinishReason.ERROR, error)


def _logprobs(token_id: int, entries: Any, count: int) -> TokenLogprobs:
    """entries: from id to vLLM's Logprob, for the sampled token and the best ones."""
    values = {one: max(entry.logprob, LEAST_LOGPROB) for one, entry in entries.items()}
    best = sorted((entry.rank, one) for one, entry in entries.items() if entry.rank <= count)
    return TokenLogprobs(values[token_id], tuple((one, values[one]) for _, one in best[:count]))
