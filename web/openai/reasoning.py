"""Divides a model's output into reasoning and answer, as the text comes.

Reasoning is only looked for at the beginning. White space beside the marks stays, as in vLLM. But reasoning
of white space alone is left out, because many models write an empty block. So is such an answer after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.answers import TokenLogprobs
from tasks.reasoning_marks import ReasoningMarks


@dataclass(frozen=True, slots=True)
class Divided:
    """Texts that were added. The reasoning comes before the answer."""

    reasoning: str
    answer: str


class ReasoningSplitter:
    """Divides the output of one choice. `push` takes the texts in their order."""

    def __init__(self, marks: ReasoningMarks) -> None:
        self._marks = marks
        self._state: Literal["beginning", "blank", "reasoning", "gap", "answer"] = "beginning"
        """In `blank` and in `gap`, the reasoning or the answer after it has only white space so far."""
        self._held = ""
        """What may be the beginning of a mark, or white space that may be all."""

    @property
    def is_undecided(self) -> bool:
        """Whether the output may begin with either."""
        return self._state == "beginning"

    @property
    def is_in_answer(self) -> bool:
        return self._state in ("gap", "answer")

    def push(self, text: str) -> Divided:
        """Returns what is known now."""
        self._held += text
        reasoning = ""
        while self._state != "answer":
            before, added = self._state, self._advance()
            reasoning += added
            if self._state == before:
                return Divided(reasoning, "")
        return Divided(reasoning, self._take(len(self._held)))

    def finish(self) -> Divided:
        """Returns what is left at the end of the output."""
        if self.is_undecided:
            self._state = "blank" if self._marks.is_opened else "answer"
        is_left_out = self._state in ("blank", "gap") and not self._held.strip()
        held = "" if is_left_out else self._held
        self._held = ""
        return Divided("", held) if self.is_in_answer else Divided(held, "")

    def _advance(self) -> str:
        """Takes a step, perhaps to another state. Returns reasoning."""
        opening, closing = self._marks.opening, self._marks.closing
        start = self._held.lstrip()
        match self._state:
            case "beginning" if start.startswith(opening):
                self._held, self._state = start.removeprefix(opening), "blank"
            case "beginning" if not opening.startswith(start):
                self._state = "blank" if self._marks.is_opened else "answer"
            case "blank" if start.startswith(closing):
                self._held, self._state = start.removeprefix(closing), "gap"
            case "blank" if not closing.startswith(start):
                self._state = "reasoning"
            case "reasoning" if closing in self._held:
                reasoning, _, self._held = self._held.partition(closing)
                self._state = "gap"
                return reasoning
            case "reasoning":
                return self._take(len(self._held) - _end_that_may_be(closing, self._held))
            case "gap" if start:
                self._state = "answer"
        return ""

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken


class AnswerLogprobs:
    """Picks the log probabilities of the answer's tokens: those after the token that ends the reasoning."""

    def __init__(self, marks: ReasoningMarks) -> None:
        self._splitter = ReasoningSplitter(marks)
        self._held: list[TokenLogprobs] = []

    def push(self, tokens: Sequence[TokenLogprobs]) -> list[TokenLogprobs]:
        """Returns those that are known to be of the answer now."""
        found: list[TokenLogprobs] = []
        for token in tokens:
            was_undecided, was_in_answer = self._splitter.is_undecided, self._splitter.is_in_answer
            divided = self._splitter.push(token["token"])
            if was_undecided:
                self._held.append(token)
            if was_in_answer:
                found.append(token)
            elif not self._splitter.is_undecided:
                # If the answer begins here without a mark, the tokens so far belong to it.
                found += self._held if divided.answer and was_undecided else []
                self._held = []
        return found

    def finish(self) -> list[TokenLogprobs]:
        """Returns those that were held back."""
        held, self._held = self._held, []
        return held if self._splitter.finish().answer else []


def _end_that_may_be(mark: str, text: str) -> int:
    """Returns how many characters at the end of a text may be the beginning of a mark."""
    longest = min(len(mark) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if mark.startswith(text[-length:])), 0)
