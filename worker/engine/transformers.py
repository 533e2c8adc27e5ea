"""ENGINE=transformers: continuous batching for any causal language model of Hugging Face transformers.

A step advances all running sequences by one token and lets waiting ones join: their prompts are prefilled and
give their first token in the same step. Nobody waits for the slowest sequence, and a long prompt is prefilled
in chunks, a chunk a step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.job import FinishReason
from tasks.request import JobRequest
from tasks.settings import Settings
from worker.engine.attention import additive_mask, is_decoded_by_products, length_mask
from worker.engine.base import (
    EngineRequest,
    Prompt,
    RequestOutput,
    SamplingParams,
    TokenLogprobs,
    decode_once,
)
from worker.engine.loading import load_model
from worker.engine.prompts import PromptEncoder
from worker.engine.sampling import NO_TOKEN, Penalties, Row, noise_key, sample, top_logprobs
from worker.engine.slot_cache import SlotCache, Window

PREFILL_TOKENS = 2048
"""Tokens of prompts, padding included, that are prefilled in one step while nobody decodes."""

PREFILL_TOKENS_BESIDE = 256
"""The same while others decode and wait for it: on a CPU about as long as a step of a full batch."""


@dataclass(slots=True)
class _Sequence:
    """token_ids: of prompt and output. While a sequence runs, all but the last are in the cache.
    prefilled: how many are in the cache while it joins.
    """

    request_id: str
    token_ids: list[int]
    prompt_tokens: int
    sampling: SamplingParams
    prefilled: int = 0
    penalties: Penalties | None = None

    @property
    def output_tokens(self) -> int:
        return len(self.token_ids) - self.prompt_tokens

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
        # Typed as Any: transformers annotates `forward` per model, `__call__` not at all.
        self._model: Any = loaded.model
        self._device = loaded.device
        self._vocab_size = loaded.vocab_size
        self._prompts = PromptEncoder(loaded.tokenizer, settings.model)
        self._cache = SlotCache(loaded.layers, settings.max_num_seqs, loaded.max_model_len)
        self._has_kernel = loaded.has_attention_kernel
        self._has_additive_mask = loaded.has_slot_attention and is_decoded_by_products(loaded.device)
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
        prompt_tokens = len(request.prompt_ids)
        self._waiting.append(
            _Sequence(request.request_id, token_ids, prompt_tokens, request.sampling, penalties=penalties)
        )

    @torch.inference_mode()
    def abort_request(self, request_id: str) -> None:
        for sequence in self._running:
            if sequence.request_id == request_id:
                self._leave(sequence)
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
        logits = [self._decode_pass()] if self._running else []
        budget = PREFILL_TOKENS_BESIDE if self._running else PREFILL_TOKENS
        refused = self._prefill(budget, logits)
        if not logits:
            return refused
        # Joined sequences stand behind the others, as their logits do.
        sequences = list(self._running)
        all_logits = logits[0] if len(logits) == 1 else torch.cat(logits)
        token_ids = sample(all_logits, [sequence.row() for sequence in sequences])
        logprobs = top_logprobs(all_logits, token_ids, [s.sampling.logprobs for s in sequences])
        return refused + [self._advance(*one) for one in zip(sequences, token_ids, logprobs, strict=True)]

    def _prefill(self, budget: int, logits: list[Tensor]) -> list[RequestOutput]:
        """Spend up to `budget` tokens on those who wait. Appends the logits of those who now run; returns an
        error for each that cannot."""
        if self._joining is None and self._waiting and len(self._waiting[0].token_ids) > budget:
            self._joining = self._waiting.popleft()
        if self._joining is None:
            return self._join(self._next_to_join(budget), logits)
        sequence = self._joining
        try:
            self._check(sequence)
            last = self._chunk_pass(sequence, budget)
        except (ValueError, RuntimeError, IndexError) as error:
            self._joining = None
            return [RequestOutput(sequence.request_id, (), FinishReason.ERROR, str(error))]
        if sequence.prefilled == len(sequence.token_ids):
            self._joining = None
            self._running.append(sequence)
            logits.append(last)
        return []

    def _next_to_join(self, budget: int) -> list[_Sequence]:
        """The waiting sequences to prefill together, in their order, padded to the longest."""
        group: list[_Sequence] = []
        longest = total = 0
        while self._waiting:
            length = len(self._waiting[0].token_ids)
            longest, total = max(longest, length), total + length
            padded = longest * (len(group) + 1)
            if group and (padded > budget or padded > 2 * total):
                break
            group.append(self._waiting.popleft())
        return group

    def _join(self, group: list[_Sequence], logits: list[Tensor]) -> list[RequestOutput]:
        """Prefill sequences and let them run. Appends their logits; returns an error for each that cannot."""
        if not group:
            return []
        try:
            for sequence in group:
                self._check(sequence)
            logits.append(self._prefill_pass(group))
        except (ValueError, RuntimeError, IndexError) as error:
            if len(group) == 1:
                return [RequestOutput(group[0].request_id, (), FinishReason.ERROR, str(error))]
            return [output for sequence in group for output in self._join([sequence], logits)]
        self._running.extend(group)
        return []

    def _check(self, sequence: _Sequence) -> None:
        """On a GPU an index out of range ends the process, so no wrong input may get there."""
        if not 0 < len(sequence.token_ids) < self._max_model_len:
            raise ValueError(f"{len(sequence.token_ids)} tokens leave no room in {self._max_model_len}")
        if not 0 <= min(sequence.token_ids) <= max(sequence.token_ids) < self._vocab_size:
            raise ValueError(f"a token id lies outside of the vocabulary of {self._vocab_size}")

    def _advance(self, sequence: _Sequence, token_id: int, logprobs: TokenLogprobs | None) -> RequestOutput:
        """Take a sampled token into its sequence, which leaves the batch when it ends."""
        if token_id == NO_TOKEN:
            self._leave(sequence, spoilt=True)
            message = "the model's output is not a number"
            return RequestOutput(sequence.request_id, (), FinishReason.ERROR, message)
        sequence.token_ids.append(token_id)
        if sequence.penalties is not None:
            sequence.penalties.count(token_id)
        reason = self._finish_reason(sequence)
        if reason is not None:
            self._leave(sequence)
        reported = None if logprobs is None else (logprobs,)
        return RequestOutput(sequence.request_id, (token_id,), reason, logprobs=reported)

    def _finish_reason(self, sequence: _Sequence) -> FinishReason | None:
        if sequence.token_ids[-1] in self._eos_ids and not sequence.sampling.ignore_eos:
            return FinishReason.STOP
        if sequence.output_tokens >= sequence.sampling.max_tokens:
            return FinishReason.LENGTH
        return FinishReason.LENGTH if len(sequence.token_ids) >= self._max_model_len else None

    def _leave(self, sequence: _Sequence, *, spoilt: bool = False) -> None:
        """Free the sequence's row; the last running sequence moves into it, the joining one behind."""
        row = next(i for i, running in enumerate(self._running) if running is sequence)
        if spoilt:
            self._cache.clear(row)
        last = self._running.pop()
        if last is not sequence:
            self._running[row] = last
            self._cache.move(len(self._running), row, len(last.token_ids))
        if self._joining is not None:
            self._cache.move(len(self._running) + 1, len(self._running), self._joining.prefilled)

    def _prefill_pass(self, group: list[_Sequence]) -> Tensor:
        """Run prompts of ragged lengths, padded on the right; returns the logits behind each [group, vocab].

        Padding needs no mask: it comes later than all real tokens, so causal attention hides it, and the
        sequence's next tokens overwrite it in the cache.
        """
        lengths = [len(sequence.token_ids) for sequence in group]
        longest = max(lengths)
        token_ids = self._tensor([s.token_ids + [0] * (longest - len(s.token_ids)) for s in group])
        positions = torch.arange(longest, device=self._device).expand(len(group), -1)
        window = Window(len(self._running), positions, longest)
        ends, at = torch.unique(self._tensor(lengths) - 1, return_inverse=True)
        logits = self._forward(token_ids, window, None, logits_to_keep=ends)
        return logits[torch.arange(len(group), device=self._device), at]

    def _chunk_pass(self, sequence: _Sequence, budget: int) -> Tensor:
        """Run up to `budget` more tokens of a prompt; returns the logits behind them [1, vocab]."""
        start = sequence.prefilled
        end = min(start + budget, len(sequence.token_ids))
        positions = torch.arange(start, end, device=self._device)[None]
        mask = None
        if 0 < start < end - 1:
            mask = (torch.arange(end, device=self._device) <= positions[:, :, None])[:, None]
        window = Window(len(self._running), positions, end)
        logits = self._forward(self._tensor([sequence.token_ids[start:end]]), window, mask)
        sequence.prefilled = end
        return logits[:, -1]

    def _decode_pass(self) -> Tensor:
        """Run each sequence's last token; returns logits [running, vocab]."""
        lengths = [len(sequence.token_ids) for sequence in self._running]
        token_ids = self._tensor([[sequence.token_ids[-1]] for sequence in self._running])
        positions = self._tensor(lengths)[:, None] - 1
        longest = max(lengths)
        if self._has_kernel:
            return self._forward(token_ids, Window(0, positions, longest), length_mask(lengths))[:, -1]
        if self._has_additive_mask:
            longest = self._cache.readable(longest)
        window = Window(0, positions, longest)
        mask = None
        if min(lengths) < window.length:
            visible = torch.arange(window.length, device=self._device) <= positions
            mask = additive_mask(visible) if self._has_additive_mask else visible[:, None, None]
        return self._forward(token_ids, window, mask)[:, -1]

    def _forward(
        self, token_ids: Tensor, window: Window, mask: Tensor | None, logits_to_keep: int | Tensor = 1
    ) -> Tensor:
        """Logits [rows, kept, vocab].

        mask: [rows, 1, query, window.length], True where attended; in a decode pass as `length_mask` or
            `additive_mask` makes it, where the model's attention takes that; None: all keys up to the
            query's.
        """
        self._cache.open(window)
        output = self._model(
            input_ids=token_ids,
            attention_mask=mask,
            position_ids=window.positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        )
        logits: Tensor = output.logits
        return logits

    def _tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, device=self._device)
