"""The output of one choice, divided into reasoning, text and calls of tools, as it comes.

Either the worker has divided it, or it is divided here by the marks in its text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tasks.answers import TokenLogprobs
from tasks.job import Choice, Job
from tasks.log import TokenEntry, logprobs_body, reasoning_flags
from tasks.output_parts import Call, Part, Reasoning, parts_of
from web.openai.reasoning import AnswerLogprobs, ReasoningSplitter
from web.openai.tool_output import ToolCallBody, ToolOutput

OutputPart = Reasoning | str | ToolCallBody


@dataclass(frozen=True, slots=True)
class Added:
    """What the log adds to an output: an entry, or all of it.

    parts: as in `Choice`.
    in_reasoning: of each token with log probabilities, whether the worker found it in the reasoning.
    """

    text: str
    logprobs: Sequence[TokenLogprobs] = ()
    parts: Sequence[Part] | None = None
    in_reasoning: Sequence[bool] = ()

    @classmethod
    def of_entry(cls, entry: TokenEntry) -> Added:
        logprobs = logprobs_body(entry.logprobs) or []
        return cls(entry.text, logprobs, entry.parts, reasoning_flags(entry.logprobs))

    @classmethod
    def of_choice(cls, choice: Choice) -> Added:
        return cls(choice.text, choice.logprobs, choice.parts, choice.in_reasoning)


class DividedOutput(ABC):
    """Takes what the log adds to a choice, in its order."""

    def __init__(self, job: Job, choice: int) -> None:
        self._tools = ToolOutput.of(job, choice)
        self._shows_reasoning = bool((job.origin or {}).get("include_reasoning", True))

    @staticmethod
    def of(job: Job, choice: int) -> DividedOutput | None:
        """Returns one for a choice of a job; None if there is nothing to divide it by."""
        if job.is_divided:
            return _DividedByWorker(job, choice)
        is_whole = job.reasoning_marks is None and job.request.get("tools") is None
        return None if is_whole else _DividedByMarks(job, choice)

    @property
    def call_count(self) -> int:
        """How many calls there have been."""
        return 0 if self._tools is None else self._tools.count

    @abstractmethod
    def push(self, added: Added) -> list[OutputPart]:
        """Returns what is known now."""

    @abstractmethod
    def finish(self) -> list[OutputPart]:
        """Returns what is left at the end of the output."""

    @abstractmethod
    def answer_logprobs(self, added: Added) -> Sequence[TokenLogprobs]:
        """Returns those of tokens after the reasoning, as far as that is known now."""

    @abstractmethod
    def last_answer_logprobs(self) -> Sequence[TokenLogprobs]:
        """Returns those that are known to be after the reasoning only at the end of the output."""

    def shown_logprobs(self, added: Added) -> Sequence[TokenLogprobs]:
        """Returns all, or `answer_logprobs` if reasoning is left out: they tell the tokens' texts."""
        return added.logprobs if self._shows_reasoning else self.answer_logprobs(added)

    def last_shown_logprobs(self) -> Sequence[TokenLogprobs]:
        return [] if self._shows_reasoning else self.last_answer_logprobs()

    def _shown(self, parts: Iterable[Part]) -> list[OutputPart]:
        """Returns the parts in OpenAI's shape, without those that the client does not want."""
        found: list[OutputPart] = []
        for part in parts:
            if isinstance(part, Call):
                found += [] if self._tools is None else self._tools.bodies([part])
            elif self._shows_reasoning or isinstance(part, str):
                found.append(part)
        return found


class _DividedByMarks(DividedOutput):
    """Looks for marks in the text."""

    def __init__(self, job: Job, choice: int) -> None:
        super().__init__(job, choice)
        marks = job.reasoning_marks
        self._splitter = None if marks is None else ReasoningSplitter(marks)
        self._answer_logprobs = None if marks is None else AnswerLogprobs(marks)

    def push(self, added: Added) -> list[OutputPart]:
        if self._splitter is None:
            return self._parts("", added.text)
        divided = self._splitter.push(added.text)
        return self._parts(divided.reasoning, divided.answer)

    def finish(self) -> list[OutputPart]:
        parts: list[OutputPart] = []
        if self._splitter is not None:
            divided = self._splitter.finish()
            parts = self._parts(divided.reasoning, divided.answer)
        return [*parts, *(() if self._tools is None else self._tools.finish())]

    def answer_logprobs(self, added: Added) -> Sequence[TokenLogprobs]:
        logprobs = added.logprobs
        return logprobs if self._answer_logprobs is None else self._answer_logprobs.push(logprobs)

    def last_answer_logprobs(self) -> Sequence[TokenLogprobs]:
        return [] if self._answer_logprobs is None else self._answer_logprobs.finish()

    def _parts(self, reasoning: str, answer: str) -> list[OutputPart]:
        found: list[OutputPart] = [] if not reasoning else self._shown([Reasoning(reasoning)])
        if answer:
            found += [answer] if self._tools is None else self._tools.push(answer)
        return found


class _DividedByWorker(DividedOutput):
    """Takes the parts that the log has."""

    def push(self, added: Added) -> list[OutputPart]:
        return self._shown(parts_of(added.text, added.parts))

    def finish(self) -> list[OutputPart]:
        """Returns nothing: the worker logs the last parts together with the end."""
        return []

    def answer_logprobs(self, added: Added) -> Sequence[TokenLogprobs]:
        flagged = zip(added.logprobs, added.in_reasoning, strict=True)
        return [logprobs for logprobs, in_reasoning in flagged if not in_reasoning]

    def last_answer_logprobs(self) -> Sequence[TokenLogprobs]:
        """Returns nothing: the log tells of each token what it belongs to."""
        return []
