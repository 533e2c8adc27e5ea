"""ENGINE=transformers: continuous batching for any causal language model of Hugging Face transformers.

A step advances all running sequences by one token and lets waiting ones join: their prompts are prefilled and
give their first token in the same step. Nobody waits for the slowest sequence, and a long prompt is prefilled
in chunks, a chunk a step: as much as the machine does in half a second, see `Pace`. Who joins, and who waits
for memory, is up to `Scheduler`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch

from tasks.errors import EngineError
from tasks.job import FinishReason
from tasks.request import JobRequest
from tasks.settings import Settings
from worker.engine.base import (
    EngineRequest,
    Prompt,
    RequestOutput,
    SamplingParams,
    decode_once,
)
from worker.engine.forward import Answer, Chunk
from worker.engine.loading.model import load_model
from worker.engine.memory import memory_errors
from worker.engine.pace import Pace
from worker.engine.sampling import Penalties, Row
from worker.engine.text.prompts import PromptEncoder
from worker.engine.transformers.next_tokens import OUT_OF_MEMORY, REASONS, NextToken, next_tokens
from worker.engine.transformers.scheduler import Scheduler
from worker.engine.transformers.sequence import SequenceState

PREFILL_TOKENS = 2048
"""Tokens of prompts, padding included, that are prefilled in one step at most while nobody decodes."""

PREFILL_TOKENS_BESIDE = 128
"""At least so many while others decode and wait for it, unless they take more than half a second."""

BESIDE_SECONDS = 0.1
"""What more than these may take: a pause that a reader hardly notices."""

PACE_TRIES = 2
"""So many prompts of one length tell the speed: with the first one kernels may be loaded or tuned."""

YIELD_LOG_SECONDS = 60.0
"""Between two lines in the log about sequences that wait for memory."""

FAILURES = (MemoryError, RuntimeError, ValueError, IndexError)
"""What `Forward.run` raises, with `memory_errors` around it."""

logger = logging.getLogger(__name__)


class TransformersEngine:
    """See the module."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.perf_counter) -> None:
        """Loads the model. Raises SettingsError or EngineError, see `load_model`.

        clock: in seconds, of the machine's speed.
        """
        loaded = load_model(settings)
        self._model_id = settings.model
        self._max_num_seqs = settings.max_num_seqs
        self._max_model_len = loaded.max_model_len
        self._eos_ids = loaded.eos_ids
        self._vocab_size = loaded.vocab_size
        self._prompts = PromptEncoder(loaded.tokenizer, settings.model, loaded.max_model_len)
        self._forward = loaded.forward
        self._sample = loaded.sample
        self._scheduler = Scheduler(
            loaded.forward, settings.max_num_seqs, loaded.max_model_len, pads=loaded.forward.pads
        )
        self._clock = clock
        self._pace = Pace(PREFILL_TOKENS)
        self._pace_beside = Pace(PREFILL_TOKENS, least=PREFILL_TOKENS_BESIDE, seconds=BESIDE_SECONDS)
        self._log_yields_at = 0.0
        """Monotonic time from which on a yield may be logged."""

    @property
    def model(self) -> str:
        return self._model_id

    @property
    def max_num_seqs(self) -> int:
        return self._max_num_seqs

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
        return self._prompts.encode(request, now)

    def warm_up(self) -> None:
        """Decode, and find out how fast prompts are. Raises EngineError where the model does not run."""
        token_id = next(iter(self._eos_ids), 0)
        decode_once(self, (token_id,))
        self._find_pace(token_id)
        # The longest prompt's memory is for those who come now.
        self._forward.release(0)

    def _find_pace(self, token_id: int) -> None:
        """Prefill longer and longer prompts, until one takes as long as a step should."""
        tries = 0
        while tries < PACE_TRIES and self._pace.tokens < min(PREFILL_TOKENS, self._max_model_len):
            tokens = min(self._pace.tokens, self._max_model_len - 1)
            try:
                decode_once(self, (token_id,) * tokens)
            except EngineError as error:
                logger.warning("prompts are prefilled %d tokens at a time: %s", tokens // 2, error)
                self._pace.limit(tokens // 2)
                self._pace_beside.limit(tokens // 2)
                return
            tries = 0 if self._pace.tokens > tokens else tries + 1

    def add_request(self, request: EngineRequest) -> None:
        penalties = Penalties.of(request.sampling, request.prompt_ids, request.output_ids)
        self._scheduler.add(
            SequenceState(
                request.request_id,
                [*request.prompt_ids, *request.output_ids],
                len(request.prompt_ids),
                request.sampling,
                self._wants_logits(request.sampling, penalties),
                penalties,
            )
        )

    def _wants_logits(self, sampling: SamplingParams, penalties: Penalties | None) -> bool:
        """Whether the forward pass cannot give the next token by itself, or logprobs are asked for."""
        row = Row(sampling.temperature, sampling.top_k, sampling.top_p, 0, sampling.min_p)
        is_given = row.is_greedy or (row.is_plain and self._forward.draws)
        return not is_given or penalties is not None or sampling.logprobs is not None

    @torch.inference_mode()
    def abort_request(self, request_id: str) -> None:
        self._scheduler.remove(request_id)

    def has_unfinished_requests(self) -> bool:
        return not self._scheduler.is_idle()

    def progress(self) -> int:
        return self._forward.progress

    def check_health(self) -> None:
        """What could die lives in this process."""

    def shutdown(self) -> None:
        """It all goes with this process."""

    @torch.inference_mode()
    def step(self) -> list[RequestOutput]:
        """See `Engine.step`. An exception in it concerns all running sequences."""
        failed: list[RequestOutput] = []
        answers = self._decode()
        budget = self._pace.tokens
        if self._scheduler.running:
            budget = min(budget, self._pace_beside.tokens)
        self._prefill(budget, answers, failed)
        # Joined sequences stand behind the others, as their answers do.
        return failed + self._advance_all(answers) if answers else failed

    def _decode(self) -> list[Answer]:
        """Run the newest tokens. Where memory does not suffice, the youngest yields."""
        scheduler = self._scheduler
        while scheduler.running:
            newest = [sequence.last(row) for row, sequence in enumerate(scheduler.running)]
            try:
                return [self._run(newest, scheduler.lengths())]
            except MemoryError as error:
                reason = str(error)
            self._wait_for_memory(scheduler.youngest(), reason)
        return []

    def _run(self, chunks: Sequence[Chunk], lengths: Sequence[int]) -> Answer:
        """lengths: of all rows in use, after the pass. Raises MemoryError where memory does not suffice."""
        with memory_errors():
            self._forward.make_room(lengths)
            return self._forward.run(chunks)

    def _run_prompts(self, chunks: Sequence[Chunk], lengths: Sequence[int]) -> Answer:
        """The same, with an eye on the time that prompts take."""
        began = self._clock()
        answer = self._run(chunks, lengths)
        counts = [len(chunk.token_ids) for chunk in chunks]
        tokens = max(counts) * len(counts) if self._forward.pads else sum(counts)
        seconds = self._clock() - began
        for pace in (self._pace, self._pace_beside):
            pace.learn(tokens, seconds)
        return answer

    def _wait_for_memory(self, sequence: SequenceState, reason: str) -> None:
        scheduler = self._scheduler
        scheduler.wait_for_memory(sequence)
        if time.monotonic() < self._log_yields_at:
            return
        self._log_yields_at = time.monotonic() + YIELD_LOG_SECONDS
        logger.warning(
            "memory for keys and values is used up, the youngest of %d sequences waits for others to end "
            "(%d times so far): %s",
            len(scheduler.sequences()),
            scheduler.yields,
            reason,
        )

    def _prefill(self, budget: int, answers: list[Answer], failed: list[RequestOutput]) -> None:
        """Spend up to `budget` tokens on those who wait. Appends the answer to those who now run."""
        self._scheduler.start_joining(budget)
        joining = self._scheduler.joining
        if joining is not None:
            self._join_by_chunk(joining, budget, answers, failed)
            return
        group = self._scheduler.take_group(budget)
        refusals = [self._refusal(sequence) for sequence in group]
        failed.extend(refusal for refusal in refusals if refusal is not None)
        self._join(
            [s for s, refusal in zip(group, refusals, strict=True) if refusal is None], answers, failed
        )

    def _join(self, group: list[SequenceState], answers: list[Answer], failed: list[RequestOutput]) -> None:
        """Prefill sequences as a whole and let them run.

        Where that fails, half of them wait for the next step.
        """
        if not group:
            return
        scheduler = self._scheduler
        rows = range(len(scheduler.running), len(scheduler.running) + len(group))
        try:
            chunks = [sequence.rest(row) for row, sequence in zip(rows, group, strict=True)]
            answers.append(self._run_prompts(chunks, scheduler.lengths(group)))
            scheduler.joined(group)
            return
        except FAILURES as error:
            if len(group) == 1:
                self._give_up(group[0], error, failed)
                return
        half = len(group) // 2
        scheduler.put_back(group[half:])
        self._join(group[:half], answers, failed)

    def _join_by_chunk(
        self, sequence: SequenceState, budget: int, answers: list[Answer], failed: list[RequestOutput]
    ) -> None:
        refusal = self._refusal(sequence) if sequence.prefilled == 0 else None
        if refusal is not None:
            self._scheduler.remove(sequence.request_id)
            failed.append(refusal)
            return
        chunk = sequence.rest(len(self._scheduler.running), budget)
        try:
            answer = self._run_prompts([chunk], [*self._scheduler.lengths()[:-1], chunk.end])
        except FAILURES as error:
            self._give_up(sequence, error, failed)
            return
        sequence.prefilled = chunk.end
        if sequence.prefilled == len(sequence.token_ids):
            self._scheduler.joined([sequence])
            answers.append(answer)

    def _give_up(self, sequence: SequenceState, error: Exception, failed: list[RequestOutput]) -> None:
        """A sequence cannot join: it waits for memory where others have it, or else it fails."""
        scheduler = self._scheduler
        is_out_of_memory = isinstance(error, MemoryError)
        if is_out_of_memory and scheduler.running:
            self._wait_for_memory(sequence, str(error))
        else:
            scheduler.remove(sequence.request_id)
            failed.append(_failure(sequence, OUT_OF_MEMORY.format(error) if is_out_of_memory else str(error)))

    def _refusal(self, sequence: SequenceState) -> RequestOutput | None:
        """On a GPU an index out of range ends the process, so no wrong input may get there."""
        token_ids = sequence.token_ids
        if not 0 < len(token_ids) < self._max_model_len:
            return _failure(sequence, f"{len(token_ids)} tokens leave no room in {self._max_model_len}")
        if not 0 <= min(token_ids) <= max(token_ids) < self._vocab_size:
            return _failure(sequence, f"a token id lies outside of the vocabulary of {self._vocab_size}")
        return None

    def _advance_all(self, answers: Sequence[Answer]) -> list[RequestOutput]:
        """Give each running sequence its next token."""
        sequences = list(self._scheduler.running)
        tokens = next_tokens(sequences, answers, self._sample)
        outputs = [self._advance(*one) for one in zip(sequences, tokens, strict=True)]
        for row, output in enumerate(outputs):
            if output.finish_reason is FinishReason.ERROR:
                self._forward.clear(row)
        leaving = [s for s, output in zip(sequences, outputs, strict=True) if output.finish_reason]
        self._scheduler.leave(leaving)
        return outputs

    def _advance(self, sequence: SequenceState, token: NextToken) -> RequestOutput:
        """Take a token into its sequence."""
        token_id, logprobs = token
        if token_id in REASONS:
            return _failure(sequence, REASONS[token_id])
        sequence.token_ids.append(token_id)
        if sequence.penalties is not None:
            sequence.penalties.count(token_id)
        reason = self._finish_reason(sequence)
        reported = None if logprobs is None else (logprobs,)
        return RequestOutput(sequence.request_id, (token_id,), reason, logprobs=reported)

    def _finish_reason(self, sequence: SequenceState) -> FinishReason | None:
        if sequence.token_ids[-1] in self._eos_ids and not sequence.sampling.ignore_eos:
            return FinishReason.STOP
        if sequence.output_tokens >= sequence.sampling.max_tokens:
            return FinishReason.LENGTH
        return FinishReason.LENGTH if len(sequence.token_ids) >= self._max_model_len else None


def _failure(sequence: SequenceState, reason: str) -> RequestOutput:
    return RequestOutput(sequence.request_id, (), FinishReason.ERROR, reason)
