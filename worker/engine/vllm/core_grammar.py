"""Outputs that are restricted to a grammar, in vLLM's engine core.

vLLM asks a `StructuredOutputGrammar` for a mask before each token, and tells it the token. Ours is the same
matcher that ENGINE=transformers uses, so both accept the same grammars and write the same outputs, and a
sequence continues after the ids that an earlier attempt generated. vLLM's own backends know only a whole
output.

The worker's process follows each output with a matcher of its own, and ends it where the grammar does. vLLM
would end it by an end of sequence, which not every model has.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
import vllm
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_types import StructuredOutputBackend, StructuredOutputGrammar

from worker.engine.grammar.compiler import GrammarCompiler
from worker.engine.grammar.matcher import GrammarMatcher, GrammarSource
from worker.engine.text.eos import find_eos_ids
from worker.engine.text.prompts import PromptEncoder
from worker.engine.text.tokenizer import load_tokenizer

FILLER_ID = 0
"""The only id that may come after the end of an output. It is never shown."""

UNUSED: Any = None
"""For an argument that our backend does not need."""

logger = logging.getLogger(__name__)


class RestrictedParams(vllm.SamplingParams):  # type: ignore[misc]  # vLLM has an environment of its own.
    """Options of a sequence with a grammar. vLLM's check of it needs vLLM's own tokenizer."""

    def _validate_structured_outputs(self, *_: Any) -> None:
        """Does nothing: `GrammarCompiler` has compiled the grammar."""


def grammar_params(matcher: GrammarMatcher, logged: int) -> StructuredOutputsParams:
    """Returns what the core needs. logged: how many of the prompt's last ids earlier attempts generated."""
    source = matcher.source
    return StructuredOutputsParams(
        grammar=json.dumps({"kind": source.kind, "text": source.text, "logged": logged})
    )


class CoreGrammar(StructuredOutputGrammar):  # type: ignore[misc]  # See above.
    """The grammar of one sequence, as vLLM uses it."""

    def __init__(self, matcher: GrammarMatcher, end_ids: Collection[int]) -> None:
        """end_ids: the ids that end the sequence. Where they are ignored, there are none."""
        self._matcher = matcher
        self._end_ids = frozenset(end_ids)
        self._past_end = 0
        """How many of the last tokens came after the end of the output, an end of sequence included."""

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Takes tokens. Returns False where the sequence cannot go on, so that vLLM ends it."""
        for token_id in tokens:
            if self._past_end or self._matcher.is_complete or token_id in self._end_ids:
                self._past_end += 1
            elif self._matcher.failure is None:
                self._matcher.accept(token_id)
        if self._matcher.failure is not None:
            logger.warning("%s: %s", request_id, self._matcher.failure)
        return self._matcher.failure is None

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        return tokens[: self._matcher.fitting(tokens)]

    def rollback(self, num_tokens: int) -> None:
        """Takes back the last tokens, which vLLM only tried."""
        past_end = min(num_tokens, self._past_end)
        self._past_end -= past_end
        self._matcher.rollback(num_tokens - past_end)

    def fill_bitmask(self, bitmask: torch.Tensor, batch_index: int) -> None:
        """Writes the mask of the next token into a row. bitmask: int32 [rows, words]."""
        row = bitmask[batch_index].numpy()
        packed = self._matcher.packed(may_end=bool(self._end_ids))
        if packed is None:
            row[:] = 0
            row[FILLER_ID // 32] = 1 << FILLER_ID % 32
        else:
            row[:] = packed.view(np.int32)[: len(row)]

    def is_terminated(self) -> bool:
        return self._past_end > 0

    def reset(self) -> None:
        raise NotImplementedError("vLLM does not reset grammars")


class CoreGrammars(StructuredOutputBackend):  # type: ignore[misc]  # See above.
    """Compiles grammars for vLLM's engine core."""

    def __init__(self, vllm_config: Any) -> None:
        config = vllm_config.model_config
        vocab_size: int = config.get_vocab_size()
        super().__init__(vllm_config, UNUSED, vocab_size)
        tokenizer = load_tokenizer(config.model, config.model)
        prompts = PromptEncoder(tokenizer, config.model, config.max_model_len)
        eos_ids = find_eos_ids(config.model, tokenizer, vocab_size)
        self._compiler = GrammarCompiler(vocab_size, eos_ids, prompts.special_tokens, prompts.token_bytes)

    def grammar_of(self, request: Any) -> CoreGrammar:
        """Returns the grammar of a request, after the ids that earlier attempts generated."""
        params = request.sampling_params
        wanted = json.loads(params.structured_outputs.grammar)
        logged = request.prompt_token_ids[request.num_prompt_tokens - wanted["logged"] :]
        grammar = self._compiler.restore(GrammarSource(wanted["kind"], wanted["text"]))
        return CoreGrammar(grammar.matcher(logged), params.stop_token_ids or ())

    def compile_grammar(self, *_: Any, **__: Any) -> StructuredOutputGrammar:
        raise NotImplementedError("`grammar_of` compiles grammars")

    def allocate_token_bitmask(self, max_num_seqs: int) -> torch.Tensor:
        return torch.full((max_num_seqs, -(-self.vocab_size // 32)), -1, dtype=torch.int32)

    def destroy(self) -> None:
        """Does nothing: all of it ends with the process."""


def use_own_grammars() -> None:
    """Makes this process' engine core use our grammars."""
    StructuredOutputManager.grammar_init = _grammar_init


def _grammar_init(manager: Any, request: Any) -> None:
    """vLLM's function: gives a new request its grammar. The core calls it beside its steps."""
    if request.structured_output_request is None:
        return
    grammar: Future[CoreGrammar] = Future()
    try:
        if manager.backend is None:
            manager.backend = CoreGrammars(manager.vllm_config)
        grammar.set_result(manager.backend.grammar_of(request))
    except Exception as error:  # noqa: BLE001
        grammar.set_exception(error)  # It ends this sequence alone.
    request.structured_output_request.grammar = grammar
