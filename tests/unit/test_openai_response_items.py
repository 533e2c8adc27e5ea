"""Items of a conversation become the messages of a job, and messages the items that clients read."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.errors import InvalidRequestError
from tests.unit.openai_jobs import CLOSED, WEATHER, ended, queued
from web.openai.responses.bodies import response
from web.openai.responses.conversation import conversation_with
from web.openai.responses.item_list import input_items

OSLO = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
ROME = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


def call(call_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "weather", "arguments": "{}", **fields}


def output(call_id: str, result: Any = "rain") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": result}


def reasoning(*texts: str, **fields: Any) -> dict[str, Any]:
    parts = [{"type": "reasoning_text", "text": text} for text in texts]
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": parts, **fields}


def shape(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Returns each message's role, its content, and the ids of its calls or of the call that it answers."""
    found = []
    for message in messages:
        ids = [one["id"] for one in message.get("tool_calls", ())] or message.get("tool_call_id")
        found.append((message["role"], message["content"], ids))
    return found


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ([call("a"), call("b")], [("assistant", "", ["a", "b"])]),
        (
            [
                {"role": "assistant", "content": "Well."},
                call("a"),
                output("a"),
                call("b"),
                output("b", "sun"),
            ],
            [
                ("assistant", "Well.", ["a"]),
                ("tool", "rain", "a"),
                ("assistant", "", ["b"]),
                ("tool", "sun", "b"),
            ],
        ),
        (
            [call("a"), {"role": "assistant", "content": "Well."}, {"role": "user", "content": "Now?"}],
            [("assistant", "", ["a"]), ("assistant", "Well.", None), ("user", "Now?", None)],
        ),
        (
            [call("a"), output("a", [{"type": "input_text", "text": "rain"}])],
            [("assistant", "", ["a"]), ("tool", [{"type": "text", "text": "rain"}], "a")],
        ),
    ],
)
def test_calls_belong_to_the_message_before_them(items: list[Any], messages: list[Any]) -> None:
    assert shape(queued(input=items).request["messages"]) == messages


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ([reasoning("Hm", "."), {"role": "assistant", "content": "Well."}], [("Well.", "Hm.", 0)]),
        ([reasoning("Hm."), call("a"), call("b")], [("", "Hm.", 2)]),
        (
            [reasoning("Hm."), {"role": "assistant", "content": "Well."}, call("a"), output("a")],
            [("Well.", "Hm.", 1), ("rain", None, 0)],
        ),
        ([reasoning("One."), reasoning("Two."), call("a")], [("", "One.Two.", 1)]),
        (
            [{"role": "assistant", "content": "Well."}, reasoning("Hm."), call("a")],
            [("Well.", None, 0), ("", "Hm.", 1)],
        ),
        ([reasoning("Hm."), {"role": "user", "content": "Now?"}], [("", "Hm.", 0), ("Now?", None, 0)]),
        ([reasoning("Hm.")], [("", "Hm.", 0)]),
    ],
)
def test_reasoning_belongs_to_the_message_after_it(items: list[Any], messages: list[Any]) -> None:
    assert [
        (one["content"], one.get("reasoning_content"), len(one.get("tool_calls", ())))
        for one in queued(input=items).request["messages"]
    ] == messages


def test_an_output_becomes_the_messages_of_the_next_turn() -> None:
    first = ended(queued(tools=[WEATHER]), f"Well. {OSLO}{ROME} And")
    ids = [item["call_id"] for item in response(first)["output"] if item["type"] == "function_call"]
    second = queued("job_b", conversation_with(first), instructions="Be brief.", input=[output(ids[1])])
    assert shape(second.request["messages"]) == [
        ("system", "Be brief.", None),
        ("user", "hello", None),
        ("assistant", "Well.", ids),
        ("assistant", " And", None),
        ("tool", "rain", ids[1]),
    ]


@pytest.mark.parametrize("begin", ["", "<think>Hm.</think>"])
@pytest.mark.parametrize("text", [f"Well. {OSLO}{ROME} And", f"{OSLO}\n{ROME}\n", "just text", ""])
def test_items_keep_their_ids_and_contents_in_later_turns(begin: str, text: str) -> None:
    first = ended(queued(tools=[WEATHER], marks=CLOSED), begin + text)
    made = response(first)["output"]
    ids = [item["call_id"] for item in made if item["type"] == "function_call"]
    given = [output(one) for one in ids] or "again"
    second = ended(queued("job_b", conversation_with(first), input=given), "Rain.")
    third = queued("job_c", conversation_with(second), input="And now?")
    items: list[Any] = input_items(third)
    assert items[:-1] == [*input_items(second), *response(second)["output"]]
    assert items[: 1 + len(made)] == [*input_items(first), *made]
    assert [item.get("call_id") for item in items if item["type"] == "function_call_output"] == ids
    assert len({item["id"] for item in items}) == len(items) == 1 + len(made) + (len(ids) or 1) + 2


def test_the_answer_echoes_tools_and_form() -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Oslo", None]}}}
    form = {"type": "json_schema", "name": "place", "schema": schema, "strict": True, "description": None}
    for choice in ("auto", "none", {"type": "function", "name": "weather"}):
        body = response(queued(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False))
        assert (body["tools"], body["tool_choice"]) == ([WEATHER], choice)
        assert (body["parallel_tool_calls"], body["text"]) == (False, {"format": {"type": "text"}})
    for given in (form, {"type": "json_object"}, {"type": "text"}):
        assert response(queued(text={"format": given}))["text"] == {"format": given}


OBJECT = {"format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        ({"tools": [{"type": "web_search", "x": 1}]}, "tools.0.type", '"web_search" is not supported'),
        ({"tools": [{"type": "mcp"}]}, "tools.0.type", "only function"),
        ({"tools": [WEATHER, {"type": "function"}]}, "tools.1.name", "required"),
        ({"tools": [{**WEATHER, "defer_loading": True}]}, "tools.0.defer_loading", "no such field"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "only function"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}},
            "tool_choice",
            "no tool 'x'",
        ),
        ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice", "'auto', 'none' or 'required'"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tools": [{**WEATHER, "parameters": {"type": "no"}}], "tool_choice": "required"}, "tools", "no"),
        ({"max_tool_calls": 1}, "max_tool_calls", "not supported"),
        ({"tools": [WEATHER], "include": ["message.output_text.logprobs"]}, "include", "with `tools`"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type", '"yaml" is not supported'),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", "required"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}}},
            "text.format.schema",
            "no",
        ),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "not supported"),
        ({"text": OBJECT, "tools": [WEATHER], "tool_choice": "required"}, "text", "tool_choice"),
        ({"text": OBJECT, "structured_outputs": {"regex": "a"}}, "text", "structured_outputs"),
        (
            {"tools": [WEATHER], "tool_choice": "required", "structured_outputs": {"regex": "a"}},
            "tool_choice",
            "structured_outputs",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type", "only message, function_call"),
        ({"input": [reasoning("a", encrypted_content="x")]}, "input.0.encrypted_content", "not supported"),
        ({"input": [reasoning("a", summary=["x"])]}, "input.0.summary", "not supported"),
        ({"input": [reasoning()]}, "input.0.content", "at least 1"),
        ({"input": [reasoning("a", content=[{"type": "text", "text": "a"}])]}, "input.0.content.0.type", "r"),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort", "not supported"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "not supported"),
        ({"input": [call("a", arguments=None)]}, "input.0.arguments", "required"),
        ({"input": [output("a"), call("a")]}, "input.0.call_id", "'a' before it"),
        (
            {"input": [call("a"), output("a", [{"type": "input_image"}])]},
            "input.1.output.0.type",
            "input_text",
        ),
    ],
)
def test_a_bad_field_is_refused_by_its_name(body: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        queued(**body)
    assert caught.value.errors[0].field == field
    assert problem in caught.value.errors[0].message


def test_null_counts_as_absent() -> None:
    plain = queued()
    fields = ("tools", "tool_choice", "parallel_tool_calls", "max_tool_calls", "text", "reasoning")
    nulls: dict[str, Any] = dict.fromkeys(fields)
    given = queued(**nulls, input=[{"role": "user", "content": "hello", "id": None}])
    assert given.request == {**plain.request, "seed": given.request["seed"]}
    assert given.origin == plain.origin == queued(text={"format": None, "verbosity": None}, tools=[]).origin
    assert plain.origin == queued(reasoning={}).origin == queued(reasoning={"effort": None}).origin
    empty = {**call("a"), "id": None, "status": None, "caller": None, "namespace": None}
    assert shape(queued(input=[empty]).request["messages"]) == [("assistant", "", ["a"])]
