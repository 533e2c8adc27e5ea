"""The output of one choice, divided into reasoning, text and calls of tools, as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.answers import TokenLogprobs
from tasks.job import Job
from web.openai.reasoning import AnswerLogprobs, Divided, ReasoningSplitter
from web.openai.tool_output import ToolCallBody, ToolOutput


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A part of the reasoning before an answer."""

    text: str


OutputPart = Reasoning | str | ToolCallBody


class DividedOutput:
    """Takes the texts of a choice in their order."""

    def __init__(self, job: Job, choice: int) -> None:
        marks = job.reasoning_marks
        self._splitter = None if marks is None else ReasoningSplitter(marks)
        self._answer_logprobs = None if marks is None else AnswerLogprobs(marks)
        self._tools = ToolOutput.of(job, choice)
        self._shows_reasoning = bool((job.origin or {}).get("include_reasoning", True))

    @classmethod
    def of(cls, job: Job, choice: int) -> DividedOutput | None:
        """Returns one for a choice of a job; None if there is nothing to divide it by."""
        is_whole = job.reasoning_marks is None and job.request.get("tools") is None
        return None if is_whole else cls(job, choice)

    @property
    def call_count(self) -> int:
        """How many calls there have been."""
        return 0 if self._tools is None else self._tools.count

    def push(self, text: str) -> list[OutputPart]:
        """Returns what is known now."""
        return self._parts(Divided("", text) if self._splitter is None else self._splitter.push(text))

    def finish(self) -> list[OutputPart]:
        """Returns what is left at the end of the output."""
        parts = [] if self._splitter is None else self._parts(self._splitter.finish())
        return [*parts, *(() if self._tools is None else self._tools.finish())]

    def answer_logprobs(self, tokens: Sequence[TokenLogprobs]) -> Sequence[TokenLogprobs]:
        """Returns those after the reasoning, as far as that is known now. tokens: in their order."""
        return tokens if self._answer_logprobs is None else self._answer_logprobs.push(tokens)

    def last_answer_logprobs(self) -> Sequence[TokenLogprobs]:
        """Returns those that are known to be after the reasoning only at the end of the output."""
        return [] if self._answer_logprobs is None else self._answer_logprobs.finish()

    def shown_logprobs(self, tokens: Sequence[TokenLogprobs]) -> Sequence[TokenLogprobs]:
        """Returns all, or `answer_logprobs` if reasoning is left out: they tell the tokens' texts."""
        return tokens if self._shows_reasoning else self.answer_logprobs(tokens)

    def last_shown_logprobs(self) -> Sequence[TokenLogprobs]:
        return [] if self._shows_reasoning else self.last_answer_logprobs()

    def _parts(self, divided: Divided) -> list[OutputPart]:
        parts: list[OutputPart] = []
        if divided.reasoning and self._shows_reasoning:
            parts.append(Reasoning(divided.reasoning))
        if divided.answer:
            parts += [divided.answer] if self._tools is None else self._tools.push(divided.answer)
        return parts
