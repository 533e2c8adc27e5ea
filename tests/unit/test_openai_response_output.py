"""The items of a response's output, and the events that tell of them, agree however the text is cut."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.job import FinishReason, Status
from tasks.log import TokenEntry, choices
from tasks.output_parts import Call, Reasoning
from tasks.reasoning_marks import ReasoningMarks
from tests.unit.openai_jobs import CLOSED, OPENED, WEATHER, ended, events_of, queued, running
from web.openai.divided_output import Added
from web.openai.responses.bodies import response
from web.openai.responses.output import OutputItems

OSLO = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
ROME = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'

OUTPUTS = {
    "text": "just text, 1 < 2",
    "space": " \n",
    "nothing": "",
    "a call": OSLO,
    "calls with a line end": f"{OSLO}\n{ROME}\n",
    "text around calls": f"Let me see.\n{OSLO}\nAnd\r\n{ROME}\nDone.",
    "Mistral's": '[TOOL_CALLS][{"name": "weather", "arguments": {}}, {"name": "weather"}]',
    "Llama's": '{"name": "weather", "parameters": {"city": "Oslo"}}',
    "half a call": 'Well. <tool_call>{"name": "weather", "arg',
    "JSON": '{"city": "Oslo"}',
    "reasoning": "<think>\nOslo, I guess.\n</think>\n\nOslo.",
    "reasoning and calls": f"<think>Ask.</think>\nLet me see.\n{OSLO}\n",
    "reasoning and a call": f"<think>Ask.</think>\n{OSLO}",
    "an empty block": "<think>\n\n</think>\n\nOslo.",
    "reasoning alone": "<think>Oslo, or Rome?</think>\n\n",
    "half of the reasoning": f"<think>Oslo, or {OSLO}</thi",
}

KINDS = {
    "text": ["message"],
    "space": ["message"],
    "nothing": ["message"],
    "a call": ["function_call"],
    "calls with a line end": ["function_call", "function_call"],
    "text around calls": ["message", "function_call", "message", "function_call", "message"],
    "Mistral's": ["function_call", "function_call"],
    "Llama's": ["function_call"],
    "half a call": ["message"],
    "JSON": ["message"],
    "reasoning": ["reasoning", "message"],
    "reasoning and calls": ["reasoning", "message", "function_call"],
    "reasoning and a call": ["reasoning", "function_call"],
    "an empty block": ["message"],
    "reasoning alone": ["reasoning"],
    "half of the reasoning": ["reasoning"],
}


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def rebuilt(events: list[Any]) -> list[Any]:
    """Returns the output as a client that reads the events knows it."""
    output: list[Any] = []
    for event in events:
        name = event["type"].removeprefix("response.")
        if name == "output_item.added":
            assert event["output_index"] == len(output)
            output.append({**event["item"]})
        elif name == "content_part.added":
            output[event["output_index"]]["content"] = [{**event["part"]}]
        elif name in ("output_text.delta", "reasoning_text.delta"):
            output[event["output_index"]]["content"][0]["text"] += event["delta"]
        elif name == "function_call_arguments.delta":
            output[event["output_index"]]["arguments"] += event["delta"]
        elif name in ("output_text.done", "reasoning_text.done"):
            assert output[event["output_index"]]["content"][0]["text"] == event["text"]
        elif name == "function_call_arguments.done":
            assert output[event["output_index"]]["arguments"] == event["arguments"]
        elif name == "output_item.done":
            item = output[event["output_index"]]
            assert event["item"] == {**item, "status": event["item"]["status"]}
            output[event["output_index"]] = event["item"]
        if "item_id" in event:
            assert event["item_id"] == output[event["output_index"]]["id"]
    return output


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("tools", [[], [WEATHER]])
@pytest.mark.parametrize("marks", [None, CLOSED, OPENED], ids=["none", "closed", "opened"])
@given(
    places=st.lists(st.integers(0, 200), max_size=8),
    reason=st.sampled_from([FinishReason.STOP, FinishReason.LENGTH, FinishReason.CANCELLED]),
)
def test_the_events_tell_the_whole_output(
    kind: str, tools: list[Any], marks: ReasoningMarks | None, places: list[int], reason: FinishReason
) -> None:
    job, pieces = queued(tools=tools, marks=marks), cut(OUTPUTS[kind], places)
    end = ended(job, OUTPUTS[kind], reason)
    events = events_of(job, pieces, end)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"] == response(end)
    assert rebuilt(events) == response(end)["output"]
    ids = [item["id"] for item in rebuilt(events)]
    assert len(set(ids)) == len(ids)
    for count in range(len(pieces) + 1):
        known = events_of(job, pieces[:count])
        assert events[: len(known)] == known, "events depend on the log up to them alone"
        so_far = "".join(pieces[:count])
        if so_far or not count:
            assert rebuilt(known) == response(running(job, so_far))["output"]


@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_output_has_items_in_its_order(kind: str) -> None:
    body = response(ended(queued(tools=[WEATHER], marks=CLOSED), OUTPUTS[kind]))
    assert [item["type"] for item in body["output"]] == KINDS[kind]
    assert {item["status"] for item in body["output"]} == {"completed"}


def test_only_the_message_that_was_cut_off_is_incomplete() -> None:
    body = response(ended(queued(tools=[WEATHER]), f"Well. {OSLO} And", FinishReason.LENGTH))
    assert [item["status"] for item in body["output"]] == ["completed", "completed", "incomplete"]


def test_without_parallel_calls_the_first_one_is_kept() -> None:
    body = response(ended(queued(tools=[WEATHER], parallel_tool_calls=False), OSLO + ROME))
    [call] = body["output"]
    assert call["type"] == "function_call"
    assert json.loads(call["arguments"]) == {"city": "Oslo"}


def test_a_name_that_no_tool_can_have_is_no_call() -> None:
    text = '<tool_call>{"name": "two words", "arguments": {}}</tool_call>'
    [item] = response(ended(queued(tools=[WEATHER]), text))["output"]
    assert item["type"] == "message"
    assert item["content"][0]["text"] == text


def test_reasoning_that_was_cut_off_is_incomplete() -> None:
    body = response(ended(queued(marks=OPENED), "Oslo, or", FinishReason.LENGTH))
    [item] = body["output"]
    assert item == {
        "id": "rs_a",
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Oslo, or"}],
        "status": "incomplete",
    }
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}


END = "<end>"
"""The token that ends an output. It has log probabilities, but no text."""

TOKENS = ["<think>", "Hm", "</think>", "\n\n", "Yes", ".", END]


@pytest.mark.parametrize(
    ("marks", "tokens", "answer"),
    [
        (None, TOKENS, TOKENS),
        (CLOSED, TOKENS, TOKENS[3:]),
        (OPENED, TOKENS[1:], TOKENS[3:]),
        (CLOSED, TOKENS[3:], TOKENS[3:]),
        (CLOSED, TOKENS[:2], []),
        (CLOSED, ["\n", END], ["\n", END]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_message_has_the_logprobs_of_its_own_tokens(
    marks: ReasoningMarks | None, tokens: list[str], answer: list[str], size: int
) -> None:
    logged = [[token, -0.5, []] for token in tokens]
    starts = range(0, len(tokens), size)
    texts = ["".join(tokens[start : start + size]).replace(END, "") for start in starts]
    entries = [
        TokenEntry(0, (7,), text, None, logged[start : start + size])
        for start, text in zip(starts, texts, strict=True)
    ]
    job = queued(marks=marks, include=["message.output_text.logprobs"])
    [choice] = choices(entries, 1)
    choice.finish_reason = FinishReason.STOP
    end = replace(job, status=Status.COMPLETED, output=[choice], ended_at=9.0)
    items, told = OutputItems(job), list[Any]()
    for entry in entries:
        told += items.add(Added.of_entry(entry))
    output, last = items.finish(choice, "completed")
    deltas = [event for event in [*told, *last] if event["type"] == "response.output_text.delta"]
    assert [one["token"] for event in deltas for one in event["logprobs"]] == answer
    assert output == response(end)["output"]
    messages = [item for item in output if item["type"] == "message"]
    assert [one["token"] for item in messages for one in item["content"][0]["logprobs"]] == answer


DIVIDED = [
    TokenEntry(0, (7,), "Hm", None, [["Hm", -0.5, [], 1]], [Reasoning("Hm")]),
    TokenEntry(0, (7,), "</think>Yes", None, [["</think>", -0.5, [], 1], ["Yes", -0.5, []]], ["Yes"]),
    TokenEntry(0, (7,), ". <call>", None, [[".", -0.5, []], [" <call>", -0.5, []]], ["."]),
    TokenEntry(0, (7,), "</call>", FinishReason.STOP, [["</call>", -0.5, []]], [Call("weather", "{}")]),
]


@pytest.mark.parametrize("has_tools", [True, False])
def test_what_the_worker_divided_becomes_items(*, has_tools: bool) -> None:
    options = {"tools": [WEATHER]} if has_tools else {"include": ["message.output_text.logprobs"]}
    entries = [replace(entry, logprobs=None if has_tools else entry.logprobs) for entry in DIVIDED]
    job = replace(queued(**options), is_divided=True)
    [choice] = choices(entries, 1)
    end = replace(job, status=Status.COMPLETED, output=[choice], ended_at=9.0)
    items, told = OutputItems(job), list[Any]()
    for entry in entries:
        told += items.add(Added.of_entry(entry))
    output, last = items.finish(choice, "completed")
    assert output == response(end)["output"]
    thoughts, message, *calls = output
    assert thoughts["type"] == "reasoning"
    assert message["type"] == "message"
    assert (thoughts["content"][0]["text"], message["content"][0]["text"]) == ("Hm", "Yes.")
    tokens = [] if has_tools else ["Yes", ".", " <call>", "</call>"]
    assert [one["token"] for one in message["content"][0]["logprobs"]] == tokens
    deltas = [event for event in [*told, *last] if event["type"].endswith(".delta")]
    assert [one["token"] for event in deltas for one in event.get("logprobs", ())] == tokens
    assert "".join(event["delta"] for event in deltas) == ("HmYes.{}" if has_tools else "HmYes.")
    assert len(calls) == has_tools
