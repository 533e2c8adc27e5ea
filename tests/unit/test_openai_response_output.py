"""The items of a response's output, and the events that tell of them, agree however the text is cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.job import FinishReason
from tests.unit.openai_jobs import WEATHER, ended, events_of, queued, running
from web.openai.responses.bodies import response

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
        elif name == "output_text.delta":
            output[event["output_index"]]["content"][0]["text"] += event["delta"]
        elif name == "function_call_arguments.delta":
            output[event["output_index"]]["arguments"] += event["delta"]
        elif name == "output_text.done":
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
@given(
    places=st.lists(st.integers(0, 200), max_size=8),
    reason=st.sampled_from([FinishReason.STOP, FinishReason.LENGTH, FinishReason.CANCELLED]),
)
def test_the_events_tell_the_whole_output(
    kind: str, tools: list[Any], places: list[int], reason: FinishReason
) -> None:
    job, pieces = queued(tools=tools), cut(OUTPUTS[kind], places)
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
    body = response(ended(queued(tools=[WEATHER]), OUTPUTS[kind]))
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
