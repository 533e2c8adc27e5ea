"""Calls of tools are found in the forms of common models, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.output_parts import Call
from web.openai.tool_calls import ToolCallParser, call_id

WEATHER = Call("weather", '{"city": "Oslo"}')
TIME = Call("time", "{}")

OUTPUTS: list[tuple[str, list[str | Call]]] = [
    ("just text, 1 < 2", ["just text, 1 < 2"]),
    (" \n two", [" \n two"]),
    ('<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>', [WEATHER]),
    (
        'Let me see.\n<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>\n'
        '<tool_call>{"name": "time", "arguments": {}}</tool_call>',
        ["Let me see.", WEATHER, TIME],
    ),
    ('<tool_call>{"name": "time"}', [TIME]),
    ("<tool_call>nonsense</tool_call> after", ["<tool_call>nonsense</tool_call> after"]),
    ("a <tool_call", ["a <tool_call"]),
    ("a \n<tool_call>nonsense</tool_call>", ["a \n<tool_call>nonsense</tool_call>"]),
    ("a <tool_call>{", ["a <tool_call>{"]),
    (" [TOOL_CALLS]x", [" [TOOL_CALLS]x"]),
    ("<tool_call>", ["<tool_call>"]),
    ('[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}}, {"name": "time"}]', [WEATHER, TIME]),
    ('[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}', [WEATHER]),
    ('sure [TOOL_CALLS][{"name": "time"}]', ["sure", TIME]),
    ('<|python_tag|>{"name": "weather", "parameters": {"city": "Oslo"}}', [WEATHER]),
    (
        '{"name": "weather", "parameters": {"city": "Oslo"}}; {"name": "time", "parameters": {}}',
        [WEATHER, TIME],
    ),
    ('[{"name": "weather", "parameters": {"city": "Oslo"}}]', [WEATHER]),
    ('{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}', [WEATHER]),
    ('{"city": "Oslo"}', ['{"city": "Oslo"}']),
    ('{"name": "Bob", "age": 3}', ['{"name": "Bob", "age": 3}']),
    ('<tool_call>{"name": "other"}</tool_call>', [Call("other", "{}")]),
    ('<tool_call>{"name": "two words"}</tool_call>', ['<tool_call>{"name": "two words"}</tool_call>']),
    ('<tool_call>{"name": ""}</tool_call>', ['<tool_call>{"name": ""}</tool_call>']),
    ('{"name": "weather", "parameters"', ['{"name": "weather", "parameters"']),
    ("[1, 2]", ["[1, 2]"]),
    ("", []),
    ("  ", ["  "]),
]


def parse(pieces: list[str]) -> list[str | Call]:
    """Returns the parts, with neighbouring texts joined."""
    parser = ToolCallParser({"weather", "time"})
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
    joined: list[str | Call] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


@pytest.mark.parametrize(("output", "parts"), OUTPUTS)
def test_an_output_is_divided_into_text_and_calls(output: str, parts: list[str | Call]) -> None:
    assert parse([output]) == parts


@pytest.mark.parametrize(("output", "parts"), OUTPUTS)
def test_it_does_not_matter_where_the_output_is_cut(output: str, parts: list[str | Call]) -> None:
    assert parse(list(output)) == parts
    for place in range(len(output)):
        assert parse([output[:place], output[place:]]) == parts


@given(st.lists(st.sampled_from(["<tool_call>", "</tool_call>", '{"name": "f"}', "[", "a", " ", "\n", "{"])))
def test_no_text_is_lost(pieces: list[str]) -> None:
    told = "".join(part if isinstance(part, str) else '{"name": "f"}' for part in parse(pieces))
    assert bare(told) == bare("".join(pieces))


def bare(text: str) -> str:
    """Returns a text without what may be dropped beside a call: its marks, and space."""
    for mark in ("<tool_call>", "</tool_call>"):
        text = text.replace(mark, "")
    return "".join(text.split())


def test_texts_come_at_once() -> None:
    parser = ToolCallParser({"weather", "time"})
    assert parser.push("one") == ["one"]
    assert parser.push(" two <") == [" two"]
    assert parser.push(" three") == [" < three"]


def test_ids_differ_by_job_choice_and_number_and_are_short() -> None:
    ids = {call_id(job, choice, number) for job in "ab" for choice in range(3) for number in range(3)}
    assert len(ids) == 18
    assert all(len(one) == 9 and one.isalnum() for one in ids)
