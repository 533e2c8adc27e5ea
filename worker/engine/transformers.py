"""ENGINE=transformers: continuous batching for any causal language model of Hugging Face transformers.

A step advances all running sequences by one token and lets waiting ones join: their prompts are prefilled and
give their first token in the same step. Nobody waits for the slowest sequence, and a long prompt is prefilled
in chunks, a chunk a step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tasks.job import FinishReason
from tasks.request import JobRequest
from tasks.settings import Settings
from worker.engine.base import (
    EngineRequest,
    Prompt,
    RequestOutput,
    SamplingParams,
    TokenLogprobs,
    decode_once,
)
from worker.engine.forward import Answer, Chunk, Draw
from worker.engine.loading import load_model
from worker.engine.prompts import PromptEncoder
from worker.engine.sampling import NO_TOKEN, Penalties, Row, noise_key, top_logprobs

PREFILL_TOKENS = 2048
"""Tokens of prompts, padding included, that are prefilled in one step while nobody decodes."""

PREFILL_TOKENS_BESIDE = 128
"""The same while others decode and wait for it: on a CPU about as long as a step of a full batch."""


@dataclass(slots=True)
class _Sequence:
    """token_ids: of prompt and output. While a sequence runs, all but the last are in the cache.
    prefilled: how many are in the cache while it joins.
    wants_logits: whether its next tokens are sampled from logits, and not by the forward pass.
    """

    request_id: str
    token_ids: list[int]
    prompt_tokens: int
    sampling: SamplingParams
    wants_logits: bool
    penalties: Penalties | None
    prefilled: int = 0

    @property
    def output_tokens(self) -> int:
        return len(self.token_ids) - self.prompt_tokens

    def last(self, row: int) -> Chunk:
        """Its newest token, to run in its row of the cache."""
        return Chunk(row, len(self.token_ids) - 1, self.token_ids[-1:], self.wants_logits, self.draw())

    def rest(self, row: int, most: int | None = None) -> Chunk:
        """What is not in the cache yet, or so much of it."""
        end = len(self.token_ids) if most is None else self.prefilled + most
        token_ids = self.token_ids[self.prefilled : end]
        return Chunk(row, self.prefilled, token_ids, self.wants_logits, self.draw())

    def draw(self) -> Draw | None:
        """How its next token is drawn by the forward pass itself; None where that takes the argmax."""
        return None if self.wants_logits else self.row().draw

    def row(self) -> Row:
        """How its next token is sampled."""
        sampling = self.sampling
        key = noise_key(sampling.seed, sampling.choice, self.output_tokens)
        return Row(sampling.temperature, sampling.top_k, sampling.top_p, key, sampling.min_p, self.penalties)


class TransformersEngine:
    """See the module. Row i of the cache belongs to the i-th running sequence, the next to the joining."""

    def __init__(self, settings: Settings) -> None:
        """Loads the model. Raises SettingsError or EngineError, see `load_model`."""
        loaded = load_model(settings)
        self._model_id = settings.model
        self._max_num_seqs = settings.max_num_seqs
        self._max_model_len = loaded.max_model_len
        self._eos_ids = loaded.eos_ids
        self._vocab_size = loaded.vocab_size
        self._prompts = PromptEncoder(loaded.tokenizer, settings.model)
        self._forward = loaded.forward
        self._sample = loaded.sample
        self._waiting: deque[_Sequence] = deque()
        self._joining: _Sequence | None = None
        """Prefilled in part."""
        self._running: list[_Sequence] = []

    @property
    def model(self) -> str:
        return self._model_id

    @property
    def max_num_seqs(self) -> int:
        return self._max_num_seqs

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    def encode(self, request: JobRequest) -> Prompt:
        return self._prompts.encode(request)

    def warm_up(self) -> None:
        """One prefill and one decode. Raises EngineError where the model does not run."""
        decode_once(self, next(iter(self._eos_ids), 0))

    def add_request(self, request: EngineRequest) -> None:
        sequences = self._sequences()
        if any(sequence.request_id == request.request_id for sequence in sequences):
            raise ValueError(f"request {request.request_id} is in the batch already")
        if len(sequences) >= self._max_num_seqs:
            raise ValueError(f"all {self._max_num_seqs} slots are taken")
        token_ids = [*request.prompt_ids, *request.output_ids]
        penalties = Penalties.of(request.sampling, request.prompt_ids, request.output_ids)
        self._waiting.append(
            _Sequence(
                request.request_id,
                token_ids,
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
        for sequence in self._running:
            if sequence.request_id == request_id:
                self._leave([sequence])
                return
        if self._joining is not None and self._joining.request_id == request_id:
            self._joining = None
        self._waiting = deque(s for s in self._waiting if s.request_id != request_id)

    def has_unfinished_requests(self) -> bool:
        return bool(self._sequences())

    def check_health(self) -> None:
        """What could die lives in this process."""

    def shutdown(self) -> None:
        """It all goes with this process."""

    def _sequences(self) -> list[_Sequence]:
        joining = [] if self._joining is None else [self._joining]
        return [*self._running, *joining, *self._waiting]

    @torch.inference_mode()
    def step(self) -> list[RequestOutput]:
        """See `Engine.step`. An exception in it concerns all running sequences."""
        answers = [self._forward.run(self._newest())] if self._running else []
        budget = PREFILL_TOKENS_BESIDE if self._running else PREFILL_TOKENS
        refused = self._prefill(budget, answers)
        # Joined sequences stand behind the others, as their answers do.
        return refused + self._advance_all(list(self._running), answers) if answers else refused

    def _advance_all(self, sequences: list[_Sequence], answers: list[Answer]) -> list[RequestOutput]:
        """Give each running sequence its next token."""
        token_ids = [token_id for answer in answers for token_id in answer.best]
        logprobs: list[TokenLogprobs | None] = [None] * len(sequences)
        wanting = [index for index, sequence in enumerate(sequences) if sequence.wants_logits]
        if wanting:
            logits = torch.cat([answer.logits for answer in answers])
            drawn = self._sample(logits, [sequences[index].row() for index in wanting])
            of_drawn = top_logprobs(logits, drawn, [sequences[index].sampling.logprobs for index in wanting])
            for index, token_id, logprob in zip(wanting, drawn, of_drawn, strict=True):
                token_ids[index], logprobs[index] = token_id, logprob
        outputs = [self._advance(*one) for one in zip(sequences, token_ids, logprobs, strict=True)]
        for row, output in enumerate(outputs):
            if output.finish_reason is FinishReason.ERROR:
                self._forward.clear(row)
        self._leave([s for s, output in zip(sequences, outputs, strict=True) if output.finish_reason])
        return outputs

    def _newest(self) -> list[Chunk]:
        return [sequence.last(row) for row, sequence in enumerate(self._running)]

    def _prefill(self, budget: int, answers: list[Answer]) -> list[RequestOutput]:
        """Spend up to `budget` tokens on those who wait. Appends the answer to those who now run; returns an
        error for each that cannot."""
        if self._joining is None and self._waiting and len(self._waiting[0].token_ids) > budget:
            self._joining = self._waiting.popleft()
        if self._joining is None:
            return self._join(self._next_to_join(budget), answers)
        sequence = self._joining
        chunk = sequence.rest(len(self._running), budget)
        try:
            self._check(sequence)
            answer = self._forward.run([chunk])
        except (ValueError, RuntimeError, IndexError) as error:
            self._joining = None
            return [RequestOutput(sequence.request_id, (), FinishReason.ERROR, str(error))]
        sequence.prefilled = chunk.end
        if sequence.prefilled == len(sequence.token_ids):
            self._joining = None
            self._running.append(sequence)
            answers.append(answer)
        return []

    def _next_to_join(self, budget: int) -> list[_Sequence]:
        """The waiting sequences to prefill together, in their order."""
        group: list[_Sequence] = []
        longest = total = 0
        while self._waiting:
            length = len(self._waiting[0].token_ids)
            longest, total = max(longest, length), total + length
            cost = longest * (len(group) + 1) if self._forward.pads else total
            if group and (cost > budget or cost > 2 * total):
                break
            group.append(self._waiting.popleft())
        return group

    def _join(self, group: list[_Sequence], answers: list[Answer]) -> list[RequestOutput]:
        """Prefill sequences and let them run. Appends their answer; returns an error for each that cannot."""
        if not group:
            return []
        try:
            for sequence in group:
                self._check(sequence)
            first_row = len(self._running)
            answers.append(self._forward.run([s.rest(first_row + i) for i, s in enumerate(group)]))
        except (ValueError, RuntimeError, IndexError) as error:
            if len(group) == 1:
                return [RequestOutput(group[0].request_id, (), FinishReason.ERROR, str(error))]
            return [output for sequence in group for output in self._join([sequence], answers)]
        self._running.extend(group)
        return []

    def _check(self, sequence: _Sequence) -> None:
        """On a GPU an index out of range ends the process, so no wrong input may get there."""
        if not 0 < len(sequence.token_ids) < self._max_model_len:
            raise ValueError(f"{len(sequence.token_ids)} tokens leave no room in {self._max_model_len}")
        if not 0 <= min(sequence.token_ids) <= max(sequence.token_ids) < self._vocab_size:
            raise ValueError(f"a token id lies outside of the vocabulary of {self._vocab_size}")

    def _advance(self, sequence: _Sequence, token_id: int, logprobs: TokenLogprobs | None) -> RequestOutput:
        """Take a sampled token into its sequence."""
        if token_id == NO_TOKEN:
            message = "the model's output is not a number"
            return RequestOutput(sequence.request_id, (), FinishReason.ERROR, message)
        sequence.token_ids.append(token_id)
        if sequence.penalties is not None:
            sequence.penalties.count(token_id)
        reason = self._finish_reason(sequence)
        reported = None if logprobs is None else (logprobs,)
        return RequestOutput(sequence.request_id, (token_id,), reason, logprobs=reported)

    def _finish_reason(self, sequence: _Sequence) -> FinishReason | None:
        if sequence.token_ids[-1] in self._eos_ids and not sequence.sampling.ignore_eos:
            return FinishReason.STOP
        if sequence.output_tokens >= sequence.sampling.max_tokens:
            return FinishReason.LENGTH
        return FinishReason.LENGTH if len(sequence.token_ids) >= self._max_model_len else None

    def _leave(self, sequences: Sequence[_Sequence]) -> None:
        """Free the rows of sequences; the last of those that stay move there, the joining one behind them."""
        if not sequences:
            return
        gone = {sequence.request_id for sequence in sequences}
        before, stay = len(self._running), len(self._running) - len(gone)
        movers = [row for row in range(stay, before) if self._running[row].request_id not in gone]
        for row in range(stay):
            if self._running[row].request_id in gone:
                source = movers.pop()
                self._running[row] = self._running[source]
                self._forward.move(source, row, len(self._running[row].token_ids) - 1)
        del self._running[stay:]
        if self._joining is not None:
            self._forward.move(before, stay, self._joining.prefilled)
