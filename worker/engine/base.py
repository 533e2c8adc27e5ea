"""What the loop asks of an engine.

An engine knows single sequences. A job's `n` choices are n sequences in n slots; choices, text, stop
strings and Redis are the loop's business (`worker.engine_loop`), so that every engine treats them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tasks.errors import EngineError
from tasks.job import FinishReason
from tasks.request import JobRequest, SamplingOptions

Decode = Callable[[Sequence[int]], str]
"""Token ids -> text, special tokens left out, spaces exactly as the model wrote them."""

DecodeToken = Callable[[int], str]
"""One id -> its own text, special tokens shown. A piece of a code point becomes U+FFFD."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenized prompt.

    token_ids: what the model is fed, special tokens included; never empty.
    decode: turns ids of this prompt's continuation into text. Per prompt, because the echo engine's
        ids are positions in its prompt.
    decode_token: the same for a single id, as logprobs show it.
    special_tokens: the text of each id that `decode` leaves out, so that a stop string may name it.
    """

    token_ids: tuple[int, ...]
    decode: Decode
    decode_token: DecodeToken
    special_tokens: Mapping[int, str] = field(default_factory=dict)


class SamplingParams(SamplingOptions):
    """How one sequence is sampled: the options of its request, and what only the worker knows.

    `n` and `stop` are among the options, but no concern of an engine.

    max_tokens: new tokens at most, those of earlier attempts (`EngineRequest.output_ids`) included.
    seed, choice: together with a token's position in the output they alone decide its noise, so that a
        sequence continued by another worker draws what the first one would have drawn.
    is_seed_drawn: the client gave no seed, so an engine with noise of its own may leave this one unused.
    """

    seed: int = 0
    choice: int = 0
    is_seed_drawn: bool = False

    @classmethod
    def of(cls, options: SamplingOptions, **known: Any) -> SamplingParams:
        """Returns the options, changed and extended by what the worker knows. Nothing is validated."""
        fields = {name: getattr(options, name) for name in SamplingOptions.model_fields}
        return cls.model_construct(**{**fields, "seed": options.seed or 0, **known})


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence for the batch.

    output_ids: what earlier attempts generated already; the engine goes on behind them.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of probabilities as the model gave them, before penalties and temperature.

    logprob: the sampled token's. top: (id, logprob) of the best tokens, best first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What one step added to one sequence.

    token_ids: the new ids, an end-of-sequence id included.
    finish_reason: STOP where the last of these ids is an end of sequence, LENGTH at max_tokens, ERROR where
        this sequence cannot go on, else None. A sequence that has one has left the batch already.
    error: says why, with ERROR.
    logprobs: of each of the new ids, where they were asked for.
    """

    request_id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    error: str | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None


class Engine(Protocol):
    """Decodes many sequences together; all calls come from one thread.

    Sequences join and leave between steps: `add_request` and `abort_request` never wait for a step,
    and what they did is visible in the next one.
    """

    @property
    def model(self) -> str:
        """The model's id as clients name it."""

    @property
    def max_num_seqs(self) -> int:
        """Slots: sequences in the batch, of which some may have to wait for memory."""

    @property
    def max_model_len(self) -> int:
        """Prompt and output tokens of one sequence together, at most."""

    def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
        """Tokenize `prompt`, or render `messages` with the model's chat template.

        now: Unix time that a template takes for the present, so that all attempts at a job have the same
            prompt; None is the real one.
        Called from another thread than `step`. Raises InvalidMessagesError where the model has no chat
        template, or one that refuses the messages. May raise PromptTooLongError; the caller counts anyway.
        """

    def warm_up(self) -> None:
        """Run what is slow the first time (kernels, allocations), before the first request."""

    def add_request(self, request: EngineRequest) -> None:
        """Take a sequence into the batch.

        Raises ValueError where no slot is free or the id is known, and MemoryError where memory does not
        suffice for this sequence, which then leaves nothing behind.
        """

    def abort_request(self, request_id: str) -> None:
        """Take a sequence out; its slot is free for the next step. An unknown id is no error."""

    def step(self) -> list[RequestOutput]:
        """Advance: an output for each sequence that gained a token or failed.

        A sequence that is prefilled in chunks, or waits for memory, may have none.
        """

    def has_unfinished_requests(self) -> bool: ...

    def progress(self) -> int:
        """For any thread, and at once. A number that changes when a step moves on before it is over.

        So a slow step is not taken for one that hangs.
        """

    def check_health(self) -> None:
        """For any thread. Raises EngineError where the engine has died, even in the middle of a step."""

    def shutdown(self) -> None:
        """Let go of processes and devices. Behind the last step."""


def decode_once(engine: Engine, prompt_ids: tuple[int, ...]) -> None:
    """Let an idle engine run what is slow the first time. Raises EngineError where it cannot decode."""
    sampling = SamplingParams(max_tokens=2, ignore_eos=True)
    engine.add_request(EngineRequest("warm-up", prompt_ids, (), sampling))
    try:
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.error is not None:
                    raise EngineError(f"the model {engine.model} does not run: {output.error}")
    finally:
        engine.abort_request("warm-up")
