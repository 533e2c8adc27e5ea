"""One job on this worker: from the log that it was claimed with to the entries that follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tasks.errors import PromptTooLongError
from tasks.job import Choice, FinishReason, JobError, Status
from tasks.leases import Claim, Outcome, Write
from tasks.log import choices as logged_choices
from worker.choice_run import ChoiceRun
from worker.engine.base import (
    Engine,
    EngineRequest,
    Grammar,
    Prompt,
    RequestOutput,
    SamplingParams,
)
from worker.engine.text.detokenizer import Detokenizer
from worker.engine.text.marks import showing

MAX_ENTRIES_PER_WRITE = 1000
"""Lua can pass only some thousand arguments to one RPUSH. The rest follows with the next flush."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What a job needs before the engine can run it: its choices, made from its prompt and its log."""

    prompt_tokens: int
    choices: list[ChoiceRun]


class JobRun:
    """A claimed job: it hands outputs to its choices, and keeps this attempt's log entries.

    `prepare` may take seconds, so it changes nothing and can run on a thread of its own while the job's lease
    is renewed. `begin` takes its result. Both are called once.

    The entries stay in memory until the job ends, because Redis may lose its last second. Then the same
    entries are sent again.
    """

    __slots__ = (
        "_choices",
        "_entries",
        "_first",
        "_flushed",
        "claim",
        "job_id",
        "lease_token",
        "outcome",
        "prompt_tokens",
    )

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.job_id, self.lease_token = claim.job_id, claim.lease_token
        self.outcome: Outcome | None = None
        self.prompt_tokens = 0
        self._first = len(claim.log)
        """The log's length at the claim, where this attempt's entries begin."""
        self._entries: list[str] = []
        self._flushed = 0
        """How many of these entries are in Redis."""
        self._choices: list[ChoiceRun] = []

    @property
    def slots(self) -> int:
        return self.claim.request.n

    @property
    def choices(self) -> Sequence[ChoiceRun]:
        """The job's choices, from `begin` on."""
        return self._choices

    def prepare(self, engine: Engine) -> Preparation:
        """Tokenizes the prompt, compiles the grammar if there is one, and decodes the log.

        Raises PromptTooLongError, EngineError, UnreadableRecordError and whatever a tokenizer raises.
        """
        prompt = engine.encode(self.claim.request, self.claim.started_at)
        if (marks := self.claim.reasoning_marks) is not None:
            prompt = showing(prompt, {marks.opening, marks.closing})
        if not self.claim.is_divided:
            prompt = replace(prompt, new_divider=None)
        elif prompt.new_divider is not None:
            prompt = showing(prompt, set(prompt.special_tokens.values()))
        prompt_tokens = len(prompt.token_ids)
        budget = engine.max_model_len - prompt_tokens
        if budget < 1:
            raise PromptTooLongError(
                f"the prompt has {prompt_tokens} tokens; the length served is {engine.max_model_len}, "
                "and one of them must be left for the output"
            )
        outputs = self.claim.request.structured_outputs
        grammar = None if outputs is None else engine.compile(outputs)
        logged = logged_choices(self.claim.entries, self.claim.request.n)
        choices = [self._choice_run(choice, prompt, budget, grammar) for choice in logged]
        return Preparation(prompt_tokens, choices)

    def begin(self, preparation: Preparation) -> list[EngineRequest]:
        """Returns the sequences that the engine is to run: none where the job has ended meanwhile."""
        self.prompt_tokens = preparation.prompt_tokens
        if self.outcome:
            return []
        self._choices = preparation.choices
        self._conclude()
        return [choice.request for choice in self._choices if choice.is_running]

    @property
    def can_be_cut_off(self) -> bool:
        """Whether all of the text is known. Before `begin` it is not, if earlier attempts wrote some."""
        return bool(self._choices) or not self.claim.has_tokens

    def push(self, output: RequestOutput) -> bool:
        """Takes what a step added to one of the choices.

        Returns whether the choice ended here, so that the engine has to abort its sequence.
        """
        choice = self._choices[_choice_index(output.request_id)]
        if self.outcome or not choice.is_running:
            return False  # Tokens after a stop string or a cancel, from a step that was under way.
        choice.push(output)
        if choice.finish_reason is FinishReason.ERROR:
            self.fail("engine_error", output.error or "the engine failed", FinishReason.ERROR)
        else:
            self._conclude()
        return output.finish_reason is None and not choice.is_running

    def fail(self, code: str, message: str, reason: FinishReason) -> None:
        self.cut_off(reason, Outcome(Status.FAILED, JobError(code, message)))

    def cut_off(self, reason: FinishReason, outcome: Outcome) -> None:
        """Ends the job now. The text of its choices is kept."""
        for choice in self._running():
            choice.end(reason)
        self.outcome = outcome

    def break_off(self, message: str) -> None:
        """Fails a job whose text cannot be decoded. Text that was held back is lost."""
        for choice in self._running():
            choice.break_off()
        self.outcome = Outcome(Status.FAILED, JobError("engine_error", message))

    def engine_request_ids(self) -> list[str]:
        """Returns the ids of all sequences, of ended ones too: aborting those does no harm."""
        return [choice.request.request_id for choice in self._choices]

    def has_news(self) -> bool:
        """Returns whether there is anything to write, except for a renewal of the lease."""
        return (
            self._flushed < len(self._entries)
            or self.outcome is not None
            or any(choice.text or choice.is_end_unlogged for choice in self._choices)
        )

    def next_write(self) -> Write:
        """Returns the entries that Redis lacks."""
        entries, flushed, outcome = self._entries, self._flushed, self.outcome
        for choice in self._choices:
            if choice.text or choice.is_end_unlogged:
                entries.append(choice.take_entry())
        unflushed = entries[flushed : flushed + MAX_ENTRIES_PER_WRITE]
        write = Write(self.job_id, self.lease_token, self._first + flushed, unflushed)
        if not flushed and (unflushed or outcome):
            write.prompt_tokens = self.prompt_tokens
        if outcome and flushed + len(unflushed) == len(entries):
            write.outcome = self._counted_outcome(outcome)
        return write

    def flushed_up_to(self, log_length: int) -> None:
        """Notes how many entries of the log Redis has: more than before, or fewer where it lost some."""
        self._flushed = log_length - self._first

    def _choice_run(self, choice: Choice, prompt: Prompt, budget: int, grammar: Grammar | None) -> ChoiceRun:
        request = self.claim.request
        sampling = SamplingParams.of(
            request,
            max_tokens=min(request.max_tokens, budget),
            choice=choice.index,
            is_seed_drawn=self.claim.is_seed_drawn,
        )
        output_ids = tuple(choice.token_ids)
        detokenizer = Detokenizer.resume(
            prompt.token_ids,
            output_ids,
            len(choice.text),
            prompt.decode,
            request.stop,
            prompt.special_tokens,
            prompt.new_decoder() if prompt.new_decoder else None,
        )
        has_ended = choice.finish_reason is not None
        matcher = None if grammar is None or has_ended else grammar.matcher(output_ids)
        sequence = EngineRequest(
            _request_id(self.lease_token, choice.index), prompt.token_ids, output_ids, sampling, matcher
        )
        run = ChoiceRun(sequence, detokenizer, prompt.decode_token, choice.finish_reason, len(output_ids))
        if prompt.new_divider is not None and not has_ended:
            run.divide_with(prompt.new_divider(), choice.text)
        if matcher is not None and matcher.is_complete:
            run.end(FinishReason.STOP)
        elif run.is_running and len(output_ids) >= sampling.max_tokens:
            run.end(FinishReason.LENGTH)  # An earlier worker served a greater length.
        return run

    def _counted_outcome(self, outcome: Outcome) -> Outcome:
        if not self._choices:
            return outcome
        tokens = sum(choice.completion_tokens for choice in self._choices)
        return replace(outcome, completion_tokens=tokens)

    def _running(self) -> Iterator[ChoiceRun]:
        return (choice for choice in self._choices if choice.is_running)

    def _conclude(self) -> None:
        if not any(self._running()):
            self.outcome = Outcome(Status.COMPLETED)


def _request_id(lease_token: str, choice: int) -> str:
    # By lease token, not by job: the same worker may get the same job again.
    return f"{lease_token}:{choice}"


def lease_token_of(request_id: str) -> str:
    """Returns the lease token of the job that a sequence belongs to."""
    return request_id.rsplit(":", 1)[0]


def _choice_index(request_id: str) -> int:
    return int(request_id.rsplit(":", 1)[1])
