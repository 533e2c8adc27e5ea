"""ENGINE=echo: no model. It streams the prompt's own words back, one per step, until max_tokens.

A token is a word, and its id is the word's position in the endlessly repeated prompt: output token k has id
k, whichever worker generates it. So the text depends on the position only, and shows a missing or repeated
token.

With ECHO_TOKENIZER=1, a token is one of the prompt's tokens of a real tokenizer instead. Then the worker does
all that it does for a model except to compute it: `bench/cost.py` measures this.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import EngineError, SettingsError
from tasks.job import FinishReason
from tasks.request import JobRequest
from tasks.settings import Settings
from tasks.structured_outputs import StructuredOutputs
from worker.engine.base import (
    EngineRequest,
    Grammar,
    Prompt,
    RequestOutput,
    SamplingParams,
    TokenLogprobs,
)

if TYPE_CHECKING:
    from worker.engine.text.prompts import PromptEncoder

DEFAULT_MAX_MODEL_LEN = 4096
"""In words. A common length of small models, so that long prompts are refused as they would be there."""


@dataclass(slots=True)
class _Sequence:
    position: int
    sampling: SamplingParams
    cycle: tuple[int, ...] = ()
    """The ids to repeat; none where an id is the position."""

    def next_id(self) -> int:
        position, self.position = self.position, self.position + 1
        return self.cycle[position % len(self.cycle)] if self.cycle else position


class EchoEngine:
    """See the module. A step takes ECHO_STEP_SECONDS in all, however many sequences it serves."""

    def __init__(self, settings: Settings) -> None:
        self._model = settings.model
        self._max_num_seqs = settings.max_num_seqs
        self._max_model_len = settings.max_model_len or DEFAULT_MAX_MODEL_LEN
        self._step_seconds = settings.echo_step_seconds
        self._next_step_at = 0.0
        self._prompts = _prompt_encoder(settings, self._max_model_len) if settings.echo_tokenizer else None
        self._running: dict[str, _Sequence] = {}

    @property
    def model(self) -> str:
        return self._model

    @property
    def max_num_seqs(self) -> int:
        return self._max_num_seqs

    @property
    def max_model_len(self) -> int:
        return self._max_model_len

    @property
    def reasoning_marks(self) -> None:
        """None: it repeats prompts, also those of a model's tokenizer."""
        return None

    @property
    def divides_outputs(self) -> bool:
        return False

    def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
        """Returns the words of the prompt or of all messages. White space alone is one empty word.

        Without a tokenizer, token ids have no text. Their numbers are the words.
        """
        if self._prompts is not None:
            return self._prompts.encode(request, now)
        words = _text(request).split() or [""]

        def decode(token_ids: Sequence[int]) -> str:
            # The space belongs to the word after it, and id 0 begins every output. So any window of ids
            # decodes to its part of the text.
            return "".join((" " if i else "") + words[i % len(words)] for i in token_ids)

        return Prompt(tuple(range(len(words))), decode, lambda token_id: decode((token_id,)))

    def compile(self, outputs: StructuredOutputs) -> Grammar:  # noqa: ARG002
        """Raises EngineError. outputs: of any kind."""
        raise EngineError("structured_outputs: the echo engine has no model whose tokens it could restrict")

    def warm_up(self) -> None:
        """Does nothing: no step is slow the first time."""

    def add_request(self, request: EngineRequest) -> None:
        if request.request_id in self._running:
            raise ValueError(f"request {request.request_id} is in the batch already")
        if len(self._running) >= self._max_num_seqs:
            raise ValueError(f"all {self._max_num_seqs} slots are taken")
        cycle = request.prompt_ids if self._prompts else ()
        self._running[request.request_id] = _Sequence(len(request.output_ids), request.sampling, cycle)

    def abort_request(self, request_id: str) -> None:
        self._running.pop(request_id, None)

    def has_unfinished_requests(self) -> bool:
        return bool(self._running)

    def progress(self) -> int:
        """Returns a constant, because a step is one wait."""
        return 0

    def check_health(self) -> None:
        """Does nothing: no other process can die."""

    def shutdown(self) -> None:
        """Does nothing: the engine has no resources."""

    def step(self) -> list[RequestOutput]:
        if not self._running:
            return []
        self._wait_for_schedule()
        return [self._advance(request_id) for request_id in list(self._running)]

    def _advance(self, request_id: str) -> RequestOutput:
        sequence = self._running[request_id]
        token_id, sampling = sequence.next_id(), sequence.sampling
        logprobs = None if sampling.logprobs is None else _certain(token_id, sampling)
        if sequence.position < sampling.max_tokens:
            return RequestOutput(request_id, (token_id,), None, None, logprobs)
        del self._running[request_id]
        return RequestOutput(request_id, (token_id,), FinishReason.LENGTH, logprobs=logprobs)

    def _wait_for_schedule(self) -> None:
        """Steps are due at fixed times, so that work between them costs no speed."""
        now = time.monotonic()
        if now < self._next_step_at:
            time.sleep(self._next_step_at - now)
        # A late step moves the schedule: an idle engine must not catch up with a burst.
        self._next_step_at = max(self._next_step_at, now) + self._step_seconds


def _text(request: JobRequest) -> str:
    if request.prompt_token_ids is not None:
        return " ".join(map(str, request.prompt_token_ids))
    return request.prompt or " ".join(message.text for message in request.messages or ())


def _prompt_encoder(settings: Settings, max_model_len: int) -> PromptEncoder:
    """Raises SettingsError and EngineError."""
    # Imported here, so that echo works where transformers is not installed.
    try:
        from worker.engine.model_files import model_source
        from worker.engine.text.prompts import PromptEncoder
        from worker.engine.text.tokenizer import load_tokenizer
    except ModuleNotFoundError as error:
        raise SettingsError(f"ECHO_TOKENIZER=1: {error.name} is not installed") from error
    tokenizer = load_tokenizer(model_source(settings), settings.model_id)
    return PromptEncoder(tokenizer, settings.model, max_model_len)


def _certain(token_id: int, sampling: SamplingParams) -> tuple[TokenLogprobs, ...]:
    """Returns logprobs of 0: there is only one token to choose."""
    return (TokenLogprobs(0.0, ((token_id, 0.0),) if sampling.logprobs else ()),)
