"""A chat completion and its stream tell the same reasoning, text, calls and log probabilities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.job import FinishReason, Job, Status
from tasks.log import TokenEntry, choices
from tasks.output_parts import Call, Part, Reasoning
from tasks.reasoning_marks import ReasoningMarks
from tasks.submission import Draft
from tests.unit.openai_jobs import CLOSED, OPENED
from web.json_body import validated
from web.openai.bodies import chat_completion
from web.openai.chat_parameters import ChatParameters
from web.openai.chunks import ChatChunks
from web.relay.events import Batch

TOOL = {"type": "function", "function": {"name": "weather"}}
CALL = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
OUTPUTS = [
    "<think>\nHm.\n</think>\n\nYes.",
    f"<think>Ask.</think>\nLet me see.\n{CALL}",
    f"<think>Ask.</think>\n{CALL}",
    "Yes. 1 < 2",
    "<think>Hm. </thi",
    "",
]


def queued(marks: ReasoningMarks | None, **options: Any) -> Job:
    body = {"messages": [{"role": "user", "content": "hello"}], **options}
    parameters = validated(ChatParameters, body)
    request = parameters.job().model_dump(mode="json", exclude_none=True) | {"model": "m"}
    return replace(Draft.of(request, parameters.origin).job("job_a", "ada", 5.0), reasoning_marks=marks)


def streamed(job: Job, entries: Sequence[TokenEntry]) -> list[Any]:
    """Returns the choices of a stream's chunks."""
    chunks = ChatChunks(job, first=job, place=0, includes_usage=False)
    events = Batch(1, [entry.encode() for entry in entries]).events
    return [json.loads(chunk)["choices"][0] for event in events for chunk in chunks.of(event)]


def completed(job: Job, entries: Sequence[TokenEntry]) -> Any:
    ended = replace(job, status=Status.COMPLETED, output=choices(entries, 1))
    return chat_completion(ended)["choices"][0]


def text_of(found: list[Any], name: str) -> str:
    return "".join(one["delta"].get(name, "") for one in found)


def tokens_of(found: list[Any]) -> list[str]:
    return [token["token"] for one in found if one["logprobs"] for token in one["logprobs"]["content"]]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("marks", [None, CLOSED, OPENED], ids=["none", "closed", "opened"])
@given(places=st.lists(st.integers(0, 60), max_size=6), shows=st.booleans())
def test_a_stream_tells_the_same_as_the_completion(
    marks: ReasoningMarks | None, tools: Any, output: str, places: list[int], shows: bool
) -> None:
    job = queued(marks, tools=tools, include_reasoning=shows)
    edges = [0, *sorted(place % (len(output) + 1) for place in places), len(output)]
    entries = [TokenEntry(0, (7,), output[start:end]) for start, end in pairwise(edges)]
    entries.append(TokenEntry(0, (8,), "", FinishReason.STOP))
    found, whole = streamed(job, entries), completed(job, entries)
    message = whole["message"]
    assert text_of(found, "reasoning_content") == message.get("reasoning_content", "")
    assert text_of(found, "content") == (message["content"] or "")
    calls = [call for one in found for call in one["delta"].get("tool_calls", ())]
    assert calls == [{"index": place, **call} for place, call in enumerate(message.get("tool_calls", ()))]
    assert found[-1]["finish_reason"] == whole["finish_reason"]
    if not shows:
        assert "reasoning_content" not in message
    elif marks is not None and "<think>Hm" in output:
        assert message["reasoning_content"]


PARTS: list[tuple[str, list[Part] | None]] = [
    ("Hm. ", [Reasoning("Hm. ")]),
    ("Well", [Reasoning("Well")]),
    ("</think>", []),
    ("Let me", None),
    (" see. <call>", [" see."]),
    ("</call>", [Call("weather", "{}"), Call("weather", '{"a": 1}')]),
]


@pytest.mark.parametrize("shows", [True, False])
@pytest.mark.parametrize("is_parallel", [True, False])
@pytest.mark.parametrize("count", range(len(PARTS) + 1))
def test_what_the_worker_divided_is_taken_as_it_is(count: int, *, shows: bool, is_parallel: bool) -> None:
    options = {"tools": [TOOL], "include_reasoning": shows, "parallel_tool_calls": is_parallel}
    job = replace(queued(None, logprobs=True, **options), is_divided=True)
    entries = [
        TokenEntry(0, (7,), text, None, [[text, -0.5, [], *([1] * (place < 3))]], parts)
        for place, (text, parts) in enumerate(PARTS[:count])
    ]
    entries.append(TokenEntry(0, (8,), "", FinishReason.STOP, [["end", -0.5, []]], ["."]))
    found, whole = streamed(job, entries), completed(job, entries)
    message = whole["message"]
    reasoning = ["", "Hm. ", "Hm. Well"][min(count, 2)] if shows else ""
    assert text_of(found, "reasoning_content") == message.get("reasoning_content", "") == reasoning
    answer = "".join(["Let me", " see."][: max(count - 3, 0)]) + "."
    assert text_of(found, "content") == message["content"] == answer
    calls = [call for one in found for call in one["delta"].get("tool_calls", ())]
    assert calls == [{"index": place, **call} for place, call in enumerate(message.get("tool_calls", ()))]
    assert len(calls) == (1 + is_parallel if count == len(PARTS) else 0)
    assert found[-1]["finish_reason"] == whole["finish_reason"] == ("tool_calls" if calls else "stop")
    shown = [text for text, _ in PARTS[:count]][0 if shows else 3 :]
    assert tokens_of(found) == [one["token"] for one in whole["logprobs"]["content"]] == [*shown, "end"]


def test_content_is_null_if_there_is_only_reasoning() -> None:
    cut_off = [TokenEntry(0, (7,), "Hm. "), TokenEntry(0, (7,), "Well", FinishReason.LENGTH)]
    whole = completed(queued(OPENED), cut_off)
    assert whole["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "Hm. Well",
    }
    assert whole["finish_reason"] == "length"
    hidden = completed(queued(OPENED, include_reasoning=False), cut_off)
    assert hidden["message"] == {"role": "assistant", "content": "", "refusal": None}


def test_a_restricted_output_is_all_answer() -> None:
    """Its job has no marks, because a grammar restricts the output from its first token on."""
    assert Draft.of(queued(None).request, {"api": "chat.completions"}).has_reasoning
    restricted = queued(None, response_format={"type": "json_object"}).request
    assert not Draft.of(restricted, {"api": "chat.completions"}).has_reasoning


@pytest.mark.parametrize(
    ("tokens", "answer"),
    [
        (["<think>", "Hm", "</think>", "\n", "Yes"], ["\n", "Yes"]),
        (["\n", "Yes"], ["\n", "Yes"]),
        (["<think>", "Hm"], []),
        (["\n"], ["\n"]),
    ],
)
@pytest.mark.parametrize("shows", [True, False])
def test_reasoning_that_is_left_out_has_no_logprobs(
    tokens: list[str], answer: list[str], shows: bool
) -> None:
    """They would tell it. Otherwise all tokens have some, those of marks included."""
    entries = [TokenEntry(0, (7,), token, None, [[token, -0.5, []]]) for token in tokens]
    entries.append(TokenEntry(0, (), "", FinishReason.STOP))
    job = queued(CLOSED, include_reasoning=shows, logprobs=True)
    expected = answer if not shows else tokens
    assert tokens_of(streamed(job, entries)) == tokens_of([completed(job, entries)]) == expected


def test_a_message_with_reasoning_alone_may_be_sent_back() -> None:
    answer = {"role": "assistant", "content": None, "reasoning_content": "Hm.", "refusal": None}
    body = {"messages": [{"role": "user", "content": "hello"}, answer]}
    [_, message] = validated(ChatParameters, body).job().messages or []
    assert (message.text, message.reasoning_content) == ("", "Hm.")
