"""ENGINE=transformers: continuous batching for any causal language model of Hugging Face transformers.

A step has three parts. `Scheduler.schedule` decides which waiting sequences join. `BatchRunner.run` runs the
newest token of each running sequence, and the prompts of those that join. `_postprocess` gives each sequence
its next token, and those that end leave. So no sequence waits for the slowest one. A long prompt is prefilled
in chunks, one a step, each as long as the machine can do in half a second (see `Pace`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch

from tasks.errors import EngineError
from tasks.job import FinishReason
from tasks.reasoning_marks import ReasoningMarks
from tasks.request import JobRequest
from tasks.settings import Settings
from tasks.structured_outputs import StructuredOutputs
from worker.engine.base import (
    EngineRequest,
    Grammar,
    Matcher,
    Prompt,
    RequestOutput,
    decode_once,
)
from worker.engine.forward import Answer
from worker.engine.grammar.compiler import GrammarCompiler
from worker.engine.loading.model import load_model
from worker.engine.penalties import Penalties
from worker.engine.sampling import wants_logits
from worker.engine.text.prompts import PromptEncoder
from worker.engine.transformers.batch_runner import PREFILL_TOKENS, BatchRunner
from worker.engine.transformers.next_tokens import REASONS, NextToken, next_tokens
from worker.engine.transformers.scheduler import Scheduler
from worker.engine.transformers.sequence import SequenceState

PACE_TRIES = 2
"""How many prompts of one length are timed: with the first one, kernels may be loaded or tuned."""

logger = logging.getLogger(__name__)


class TransformersEngine:
    """See the module."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.perf_counter) -> None:
        """Loads the model. Raises SettingsError or EngineError, see `load_model`.

        clock: seconds, to measure the machine's speed.
        """
        loaded = load_model(settings)
        self._model_id = settings.model
        self._max_num_seqs = settings.max_num_seqs
        self._max_model_len = loaded.max_model_len
        self._eos_ids = loaded.eos_ids
        self._prompts = PromptEncoder(loaded.tokenizer, settings.model, loaded.max_model_len)
        self._grammars = GrammarCompiler(
            loaded.vocab_size, loaded.eos_ids, self._prompts.special_tokens, self._prompts.token_bytes
        )
        self._forward = loaded.forward
        self._sample = loaded.sample
        self._scheduler = Scheduler(
            loaded.forward, settings.max_num_seqs, loaded.max_model_len, pads=loaded.forward.pads
        )
        self._runner = BatchRunner(
            loaded.forward, self._scheduler, loaded.max_model_len, loaded.vocab_size, clock
        )

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
        return self._prompts.encode(request, now)

    def compile(self, outputs: StructuredOutputs) -> Grammar:
        return self._grammars.compile(outputs)

    def warm_up(self) -> None:
        """Decodes, and measures the speed of prompts. Raises EngineError where the model does not run."""
        token_id = next(iter(self._eos_ids), 0)
        decode_once(self, (token_id,))
        self._find_pace(token_id)
        # Free the longest prompt's memory for requests.
        self._forward.release(0)

    def _find_pace(self, token_id: int) -> None:
        """Prefills longer and longer prompts until one takes as long as a step should."""
        tries = 0
        while tries < PACE_TRIES and self._runner.prefill_tokens() < min(PREFILL_TOKENS, self._max_model_len):
            tokens = min(self._runner.prefill_tokens(), self._max_model_len - 1)
            try:
                decode_once(self, (token_id,) * tokens)
            except EngineError as error:
                logger.warning("prompts are prefilled %d tokens at a time: %s", tokens // 2, error)
                self._runner.limit_prefill(tokens // 2)
                return
            tries = 0 if self._runner.prefill_tokens() > tokens else tries + 1

    def add_request(self, request: EngineRequest) -> None:
        penalties = Penalties.of(request.sampling, request.prompt_ids, request.output_ids)
        self._scheduler.add(
            SequenceState(
                request.request_id,
                [*request.prompt_ids, *request.output_ids],
                len(request.prompt_ids),
                request.sampling,
                wants_logits(
                    request.sampling,
                    penalties,
                    is_restricted=request.matcher is not None,
                    draws=self._forward.draws,
                ),
                penalties,
                matcher=request.matcher,
            )
        )

    @torch.inference_mode()
    def abort_request(self, request_id: str) -> None:
        self._scheduler.abort(request_id)

    def has_unfinished_requests(self) -> bool:
        return not self._scheduler.is_idle()

    def progress(self) -> int:
        return self._forward.progress

    def check_health(self) -> None:
        """Does nothing: the engine has no other process that could die."""

    def shutdown(self) -> None:
        """Does nothing: all that the engine has ends with this process."""

    @torch.inference_mode()
    def step(self) -> list[RequestOutput]:
        """See `Engine.step`. An exception in it concerns all running sequences."""
        budget = self._runner.prefill_tokens()
        self._scheduler.schedule(budget)
        answers, failed = self._runner.run(budget)
        return failed + self._postprocess(answers)

    def _postprocess(self, answers: Sequence[Answer]) -> list[RequestOutput]:
        """Gives each running sequence its next token; those that end leave."""
        if not answers:
            return []
        sequences = list(self._scheduler.running)
        tokens = next_tokens(sequences, answers, self._sample)
        outputs = [self._advance(*one) for one in zip(sequences, tokens, strict=True)]
        leaving = []
        for row, output in enumerate(outputs):
            if output.finish_reason is not None:
                leaving.append(sequences[row])
                if output.finish_reason is FinishReason.ERROR:
                    self._forward.clear(row)
        self._scheduler.finish(leaving)
        return outputs

    def _advance(self, sequence: SequenceState, token: NextToken) -> RequestOutput:
        """Takes a token into its sequence."""
        token_id, logprobs = token
        matcher = sequence.matcher
        if matcher is not None and matcher.failure is not None:
            return sequence.failure(matcher.failure)
        if matcher is not None and matcher.is_complete:
            return RequestOutput(sequence.request_id, (), FinishReason.STOP)
        if token_id in REASONS:
            return sequence.failure(REASONS[token_id])
        sequence.token_ids.append(token_id)
        if sequence.penalties is not None:
            sequence.penalties.count(token_id)
        reason, is_complete = None, False
        if token_id in self._eos_ids and not sequence.sampling.ignore_eos:
            reason = FinishReason.STOP
        elif matcher is not None and _completes(matcher, token_id):
            reason, is_complete = FinishReason.STOP, True
        elif len(sequence.token_ids) >= min(sequence.max_tokens, self._max_model_len):
            reason = FinishReason.LENGTH
        reported = None if logprobs is None else (logprobs,)
        return RequestOutput(sequence.request_id, (token_id,), reason, None, reported, is_complete)


def _completes(matcher: Matcher, token_id: int) -> bool:
    """Takes a token into its grammar. Returns whether the output is complete with it."""
    matcher.accept(token_id)
    return matcher.is_complete
