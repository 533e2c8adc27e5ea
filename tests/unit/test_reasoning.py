"""Reasoning is divided from the answer, however the text is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.reasoning_marks import ReasoningMarks
from web.openai.reasoning import AnswerLogprobs, ReasoningSplitter

CLOSED = ReasoningMarks("<think>", "</think>", is_opened=False)
OPENED = ReasoningMarks("<think>", "</think>", is_opened=True)
BRACKETS = ReasoningMarks("[THINK]", "[/THINK]", is_opened=False)

OUTPUTS: list[tuple[ReasoningMarks, str, str, str]] = [
    (CLOSED, "<think>\nHm.\n</think>\n\nYes.", "\nHm.\n", "\n\nYes."),
    (CLOSED, " \n<think>Hm.</think>Yes.", "Hm.", "Yes."),
    (CLOSED, "Yes. <think>no</think>", "", "Yes. <think>no</think>"),
    (CLOSED, " Yes.</think>", "", " Yes.</think>"),
    (CLOSED, "<thin", "", "<thin"),
    (CLOSED, " <thin air>", "", " <thin air>"),
    (CLOSED, "<think>Hm. 1 < 2", "Hm. 1 < 2", ""),
    (CLOSED, "<think>Hm.</thi", "Hm.</thi", ""),
    (CLOSED, "<think>a <think>b</think>c</think>d", "a <think>b", "c</think>d"),
    (CLOSED, "<think>\n\n</think>\n\nYes.", "", "\n\nYes."),
    (CLOSED, "<think></think>Yes.", "", "Yes."),
    (CLOSED, "<think>\n", "", ""),
    (CLOSED, "<think>\n</thi", "\n</thi", ""),
    (CLOSED, "<think>Hm.</think>\n\n", "Hm.", ""),
    (CLOSED, "\n", "", "\n"),
    (CLOSED, "", "", ""),
    (OPENED, "Hm.\n</think>\n\nYes.", "Hm.\n", "\n\nYes."),
    (OPENED, "\nHm.", "\nHm.", ""),
    (OPENED, "<think>\nHm.</think>Yes.", "\nHm.", "Yes."),
    (OPENED, "<thinner>Hm.</think>Yes.", "<thinner>Hm.", "Yes."),
    (OPENED, "\n\n</think>Yes.", "", "Yes."),
    (OPENED, "<thi", "<thi", ""),
    (OPENED, " \n", "", ""),
    (OPENED, "", "", ""),
    (BRACKETS, "[THINK]Hm.[/THINK]Yes.", "Hm.", "Yes."),
    (BRACKETS, "[THINK]Hm.</think>[/THIN", "Hm.</think>[/THIN", ""),
]

PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</", "think", ">", " ", "\n", "a", "</thi"]), max_size=12
)
EITHER = st.sampled_from([CLOSED, OPENED])


def divide(marks: ReasoningMarks, pieces: Sequence[str]) -> tuple[str, str]:
    """Returns the reasoning and the answer. Checks that no reasoning comes after the answer has begun."""
    splitter = ReasoningSplitter(marks)
    found = [*map(splitter.push, pieces), splitter.finish()]
    has_answer = [bool(one.answer) for one in found]
    assert not any(one.reasoning and any(has_answer[:place]) for place, one in enumerate(found))
    return "".join(one.reasoning for one in found), "".join(one.answer for one in found)


@pytest.mark.parametrize(("marks", "output", "reasoning", "answer"), OUTPUTS)
def test_an_output_is_divided(marks: ReasoningMarks, output: str, reasoning: str, answer: str) -> None:
    assert divide(marks, [output]) == (reasoning, answer)
    assert divide(marks, list(output)) == (reasoning, answer)


@given(marks=EITHER, pieces=PIECES)
def test_it_does_not_matter_where_the_output_is_cut(marks: ReasoningMarks, pieces: list[str]) -> None:
    text = "".join(pieces)
    assert divide(marks, pieces) == divide(marks, [text]) == divide(marks, list(text))


@given(marks=EITHER, pieces=PIECES)
def test_all_text_is_kept_but_marks_and_blank_parts(marks: ReasoningMarks, pieces: list[str]) -> None:
    text = "".join(pieces)
    has_mark = text.lstrip().startswith(marks.opening)
    rest = text.lstrip().removeprefix(marks.opening) if has_mark else text
    if not has_mark and not marks.is_opened:
        assert divide(marks, pieces) == ("", text)
        return
    reasoning, _, answer = rest.partition(marks.closing)
    assert divide(marks, pieces) == tuple(part if part.strip() else "" for part in (reasoning, answer))


def test_texts_come_at_once() -> None:
    splitter = ReasoningSplitter(CLOSED)
    found = [
        splitter.push(text) for text in ["<think>", "\n", "one", " two</", "p>", "</think>", "\n", "Yes"]
    ]
    assert [one.reasoning for one in found] == ["", "", "\none", " two", "</p>", "", "", ""]
    assert [one.answer for one in found] == [""] * 7 + ["\nYes"]


def picked(marks: ReasoningMarks, tokens: Sequence[str], size: int) -> list[str]:
    """Returns the tokens of the answer. size: how many come at a time."""
    picker = AnswerLogprobs(marks)
    logprobs: list[Any] = [{"token": token, "logprob": 0.0, "top_logprobs": []} for token in tokens]
    parts = [picker.push(logprobs[start : start + size]) for start in range(0, len(logprobs), size)]
    return [one["token"] for part in [*parts, picker.finish()] for one in part]


@pytest.mark.parametrize(
    ("marks", "tokens", "answer"),
    [
        (CLOSED, ["<think>", "Hm", "</think>", "\n", "Yes", "<end>"], ["\n", "Yes", "<end>"]),
        (CLOSED, ["\n", "Yes", "</think>"], ["\n", "Yes", "</think>"]),
        (CLOSED, ["<", "think", ">", "Hm", "</", "think", ">", "Yes"], ["Yes"]),
        (CLOSED, ["<", "thin"], ["<", "thin"]),
        (CLOSED, ["<think>", "Hm"], []),
        (OPENED, ["\n", "Hm", "</think>", "Yes"], ["Yes"]),
        (OPENED, ["\n", "Hm"], []),
        (OPENED, ["\n"], []),
    ],
)
def test_the_answer_has_the_tokens_after_the_mark(
    marks: ReasoningMarks, tokens: list[str], answer: list[str]
) -> None:
    for size in range(1, len(tokens) + 1):
        assert picked(marks, tokens, size) == answer
