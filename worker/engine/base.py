"""The protocol of an engine: what a worker asks of it, and the messages between them.

An engine knows single sequences. A job's `n` choices are n sequences in n slots. Choices, text, stop strings
and Redis are the worker's business (`worker.job_run`), so that they are the same with every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tasks.errors import EngineError
from tasks.job import FinishReason
from tasks.output_parts import Part
from tasks.reasoning_marks import ReasoningMarks
from tasks.request import JobRequest, SamplingOptions
from tasks.structured_outputs import StructuredOutputs

if TYPE_CHECKING:
    from torch import Tensor  # Not every engine needs torch.

Decode = Callable[[Sequence[int]], str]
"""Token ids -> text, special tokens left out, spaces exactly as the model wrote them."""

DecodeToken = Callable[[int], str]
"""One id -> its own text, special tokens included. A part of a code point becomes U+FFFD."""


class TextDecoder(Protocol):
    """Turns the ids of one output into text, as they come."""

    def push(self, token_id: int) -> str:
        """Takes the next id. Returns the text to show now."""

    @property
    def whole_texts(self) -> Mapping[int, str]:
        """The text of each id that `push` would show at once as the next one, without a change of its state.

        It may be another one after the next `push`. It is empty where a part of a code point is held back,
        and in a decoder without a table.
        """

    def finish(self) -> str:
        """Returns what is held back, incomplete code points as U+FFFD."""


class OutputDivider(Protocol):
    """Divides the output of one sequence into parts, as its text comes."""

    @property
    def is_in_reasoning(self) -> bool:
        """Whether the text so far ends inside the reasoning."""

    def push(self, text: str) -> list[Part]:
        """Takes the next text. Returns the parts that are known now."""

    def finish(self) -> list[Part]:
        """Returns what was held back, at the end of the output."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenized prompt.

    token_ids: what the model is fed, special tokens included; never empty.
    decode: turns ids of this prompt's continuation into text. Each prompt has its own, because ids of the
        echo engine are positions in the prompt.
    decode_token: the same for a single id, for logprobs.
    special_tokens: the text of each id that `decode` leaves out, so that a stop string may name it.
    new_decoder: makes a decoder that is faster than `decode` and agrees with it; None where there is none.
    new_divider: makes what divides one output, special tokens included; None where nothing does.
    """

    token_ids: tuple[int, ...]
    decode: Decode
    decode_token: DecodeToken
    special_tokens: Mapping[int, str] = field(default_factory=dict)
    new_decoder: Callable[[], TextDecoder] | None = None
    new_divider: Callable[[], OutputDivider] | None = None


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


class Matcher(Protocol):
    """Follows the output of one sequence through a grammar. For one thread at a time."""

    @property
    def failure(self) -> str | None:
        """Why the sequence cannot go on; None while it can."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing more may come, not even where an end of sequence is ignored."""

    def allowed(self, *, may_end: bool) -> Tensor | None:
        """Returns whether each token may come next, bool [vocab], on the CPU.

        Returns None where none may: then either `is_complete` or `failure` is set. may_end: whether an end of
        sequence may come where the output may end.
        """

    def accept(self, token_id: int) -> None:
        """Takes the token that came, which is no end of sequence. May set `is_complete` or `failure`."""


class Grammar(Protocol):
    """A compiled `structured_outputs`."""

    def matcher(self, output_ids: Sequence[int]) -> Matcher:
        """Returns a new matcher after the ids that earlier attempts generated for a choice.

        Raises EngineError where they do not fit the grammar.
        """


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence for the batch.

    output_ids: what earlier attempts generated; the engine continues after them.
    matcher: stands after these ids; None where the output is not restricted.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    sampling: SamplingParams
    matcher: Matcher | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of the model's probabilities, before penalties and temperature.

    logprob: the sampled token's. top: (id, logprob) of the best tokens, best first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(slots=True)
class RequestOutput:
    """What one step added to one sequence. Not frozen, because frozen ones take three times as long to make.

    token_ids: the new ids, an end-of-sequence id included.
    finish_reason: STOP where the last of these ids is an end of sequence or the grammar allows no more,
        LENGTH at max_tokens, ERROR where this sequence cannot go on, else None. Where it is set, the sequence
        has left the batch.
    error: the reason for ERROR.
    logprobs: those of each new id, where they were asked for.
    ends_with_text: with STOP, that no end of sequence came: the last id is text as the others are.
    """

    request_id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    error: str | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None
    ends_with_text: bool = False


class Engine(Protocol):
    """Decodes many sequences together. All calls come from one thread, unless they say otherwise.

    Sequences join and leave between steps: `add_request` and `abort_request` never wait for a step, and take
    effect in the next one.
    """

    @property
    def model(self) -> str:
        """The model's public name."""

    @property
    def max_num_seqs(self) -> int:
        """Slots: how many sequences the batch takes. Some of them may have to wait for memory."""

    @property
    def max_model_len(self) -> int:
        """The most tokens that prompt and output of one sequence may have together."""

    @property
    def reasoning_marks(self) -> ReasoningMarks | None:
        """How the model marks its reasoning; None if it writes none, or if there is no model."""

    @property
    def divides_outputs(self) -> bool:
        """Whether prompts of messages have a `new_divider`. Then `reasoning_marks` is None."""

    def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
        """Tokenizes `prompt`, or renders `messages` with the model's chat template.

        now: the Unix time that a template gets as the present, so that all attempts at a job have the same
            prompt; None is the real time.
        Called from another thread than `step`. Raises InvalidMessagesError where the model has no chat
        template, or its template refuses the messages. May raise PromptTooLongError; the caller checks the
        length anyway.
        """

    def compile(self, outputs: StructuredOutputs) -> Grammar:
        """Compiles a grammar for this engine's model, which may take seconds.

        Called from one thread at a time, another one than `step`. Raises InvalidGrammarError where the
        grammar cannot be compiled or takes too long, and EngineError where the engine cannot restrict its
        output.
        """

    def warm_up(self) -> None:
        """Runs everything that is slow the first time (kernels, allocations), before the first request."""

    def add_request(self, request: EngineRequest) -> None:
        """Adds a sequence to the batch.

        Raises ValueError where no slot is free or the id is in use, and MemoryError where memory does not
        suffice; then the sequence was not added.
        """

    def abort_request(self, request_id: str) -> None:
        """Removes a sequence. Its slot is free for the next step. An unknown id is a no-op."""

    def step(self) -> list[RequestOutput]:
        """Runs one step. Returns an output for each sequence that gained a token or failed.

        A sequence that is prefilled in chunks, or waits for memory, may have none.
        """

    def has_unfinished_requests(self) -> bool: ...

    def progress(self) -> int:
        """Returns a number that changes while a step makes progress. For any thread, without waiting.

        It tells a slow step from one that hangs.
        """

    def check_health(self) -> None:
        """For any thread. Raises EngineError where the engine has died, even in the middle of a step."""

    def shutdown(self) -> None:
        """Releases processes and devices, after the last step."""


def decode_once(engine: Engine, prompt_ids: tuple[int, ...]) -> None:
    """Has an idle engine decode two tokens. Raises EngineError where it cannot."""
    sampling = SamplingParams(max_tokens=2, ignore_eos=True)
    engine.add_request(EngineRequest("warm-up", prompt_ids, (), sampling))
    try:
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.error is not None:
                    raise EngineError(f"the model {engine.model} does not run: {output.error}")
    finally:
        engine.abort_request("warm-up")
