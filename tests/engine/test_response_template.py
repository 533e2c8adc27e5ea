"""How a worker divides outputs by a response template, as transformers' own parser reads whole ones."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_parsing import parse_response
from transformers.utils.chat_parsing.response_templates import load_response_template

from tasks.output_parts import Call, Part, Reasoning, joined
from worker.engine.text.response_template import ResponseDivider

START = "<assistant>"
PLAIN: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": START,
    "fields": {
        "thinking": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close": "<|end|>"},
    },
}
"""As of models that write ChatML: the answer is what is left."""

CHANNELS: dict[str, Any] = {
    "start_anchor": START,
    "fields": {
        "reasoning_content": {
            "open_pattern": r"(?:<\|start\|>)?<\|channel\|>analysis<\|message\|>",
            "close": "<|end|>",
            "repeats": True,
            "join": "\n",
        },
        "tool_calls": {
            "open_pattern": r"<\|channel\|>commentary to=functions\.(?P<name>\w+)<\|message\|>",
            "close": "<|call|>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"open": "<|channel|>final<|message|>", "close": "<|end|>"},
    },
}
"""As of gpt-oss: each part names its channel."""

TAGS: dict[str, Any] = {
    "start_anchor": START,
    "fields": {
        "thinking": {"open": "<think>", "close": "</think>", "content_args": {"strip": False}},
        "tool_calls": {
            "open_pattern": r"<function=(?P<name>\w+)>",
            "close": "</function>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<parameter=(?P<key>\w+)>(?P<value>.*?)</parameter>"},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "notes": {"open": "<notes>", "close": "</notes>"},
        "content": {},
    },
}
"""As of models that write calls in tags, with a field that no answer shows."""

LIST: dict[str, Any] = {
    "start_anchor": START,
    "fields": {
        "tool_calls": {
            "open": "[TOOL_CALLS]",
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}},
            "transform_each": True,
        },
        "content": {},
    },
}
"""As of Mistral's models: one list of calls up to the end."""

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
]
ROME = Call("weather", '{"city": "Rome", "days": 2}')
OSLO = Call("weather", '{"city": "Oslo"}')
JSON_ROME = '{"name": "weather", "arguments": {"city": "Rome", "days": 2}}'
JSON_OSLO = '{"name": "weather", "arguments": {"city": "Oslo"}}'

OUTPUTS: list[tuple[dict[str, Any], str, list[Part]]] = [
    (PLAIN, "Hello there. \n", ["Hello there."]),
    (PLAIN, "", []),
    (PLAIN, " \n", []),
    (PLAIN, "1 < 2 <think", ["1 < 2 <think"]),
    (PLAIN, "<think>\nHm. 1 < 2.\n</think>\n\nYes: 3 < 4.<|end|>", [Reasoning("Hm. 1 < 2."), "Yes: 3 < 4."]),
    (PLAIN, "<think>\n\n</think>\n\nYes", ["Yes"]),
    (PLAIN, "<think>Hm", [Reasoning("Hm")]),
    (
        PLAIN,
        f"<think>Ask.</think>\nWait.\n<tool_call>\n{JSON_ROME}\n</tool_call><tool_call>{JSON_OSLO}</tool_call>",
        [Reasoning("Ask."), "Wait.", ROME, OSLO],
    ),
    (PLAIN, f"<tool_call>{JSON_OSLO}", [OSLO]),
    (
        CHANNELS,
        "<|channel|>analysis<|message|>One.<|end|><|start|><|channel|>analysis<|message|> Two. <|end|>"
        "<|start|><|channel|>final<|message|>Yes",
        [Reasoning("One.\nTwo."), "Yes"],
    ),
    (
        CHANNELS,
        '<|channel|>commentary to=functions.weather<|message|>{"city": "Rome", "days": 2}<|call|>',
        [ROME],
    ),
    (
        TAGS,
        "<think> Hm. </think>One<notes>hidden</notes><function=weather><parameter=city>Rome</parameter>"
        "<parameter=days>2</parameter></function>",
        [Reasoning(" Hm. "), "One", ROME],
    ),
    (LIST, f"Wait. [TOOL_CALLS][{JSON_ROME}, {JSON_OSLO}]", ["Wait.", ROME, OSLO]),
]


DEEP = "[" * 20_000
DEEP_ARGUMENTS = f'<tool_call>{{"name": "f", "arguments": "{DEEP}"}}'


def divide(template: Any, pieces: list[str], tools: Any = TOOLS, prefix: str = START) -> list[Part]:
    divider = ResponseDivider(load_response_template(template), prefix, tools)
    return joined([part for piece in pieces for part in divider.push(piece)] + divider.finish())


@pytest.mark.parametrize(("template", "output", "parts"), OUTPUTS)
def test_an_output_is_divided_as_transformers_divides_it(
    template: Any, output: str, parts: list[Part]
) -> None:
    assert divide(template, [output]) == parts
    message = parse_response(output, template, prefix=START, tools=TOOLS)
    texts = [message.get(name, "") for name in ("thinking", "reasoning_content")]
    assert "".join(texts) == "".join(part.text for part in parts if isinstance(part, Reasoning))
    assert message.get("content", "") == "".join(part for part in parts if isinstance(part, str))
    calls = [call["function"] for call in message.get("tool_calls", [])]
    told = [part for part in parts if isinstance(part, Call)]
    assert [(call["name"], call["arguments"]) for call in calls] == [
        (call.name, json.loads(call.arguments)) for call in told
    ]


@given(st.sampled_from(OUTPUTS), st.data())
def test_it_does_not_matter_where_the_output_is_cut(case: Any, data: st.DataObject) -> None:
    template, output, parts = case
    places = sorted(data.draw(st.sets(st.integers(0, len(output)))) | {0, len(output)})
    assert divide(template, [output[start:end] for start, end in pairwise(places)]) == parts


@given(st.sampled_from([PLAIN, CHANNELS, TAGS, LIST]), st.data())
def test_each_text_is_taken_and_a_successor_goes_on_alike(template: Any, data: st.DataObject) -> None:
    """Whatever a model writes, no exception comes, and a takeover changes no part."""
    words = [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "{",
        "}",
        '"name"',
        ":",
        "<",
        "a",
        " ",
        "\n",
    ]
    more = [
        "<|channel|>",
        "final",
        "<|message|>",
        "<function=f>",
        "</function>",
        "[TOOL_CALLS]",
        "<|end|>",
        JSON_OSLO,
    ]
    tokens = data.draw(st.lists(st.sampled_from([*words, *more]), max_size=14))
    tools = data.draw(st.sampled_from([TOOLS, []]))
    loaded = load_response_template(template)
    whole = ResponseDivider(loaded, START, tools)
    parts = [whole.push(token) for token in tokens]
    cut = data.draw(st.integers(0, len(tokens)))
    successor = ResponseDivider(loaded, START, tools)
    successor.push("".join(tokens[:cut]))
    assert [successor.push(token) for token in tokens[cut:]] == parts[cut:]
    assert successor.is_in_reasoning == whole.is_in_reasoning
    assert successor.finish() == whole.finish()


@pytest.mark.parametrize(
    ("template", "output", "parts"),
    [
        (PLAIN, "a <tool_call>{'x'}</tool_call> b", ["a <tool_call>{'x'}</tool_call> b"]),
        (
            PLAIN,
            f"<tool_call>no</tool_call>\n<tool_call>{JSON_OSLO}</tool_call>",
            ["<tool_call>no</tool_call>", OSLO],
        ),
        (PLAIN, 'a <tool_call>{"name": "wea', ['a <tool_call>{"name": "wea']),
        (PLAIN, '<tool_call>{"name": "a b"}</tool_call>', ['<tool_call>{"name": "a b"}</tool_call>']),
        (PLAIN, '<tool_call>["weather"]</tool_call>', ['<tool_call>["weather"]</tool_call>']),
        (LIST, '[TOOL_CALLS][{"name": "f"}]', ['[TOOL_CALLS][{"name": "f"}]']),
        (PLAIN, f"<tool_call>{DEEP}", [f"<tool_call>{DEEP}"]),
        (PLAIN, DEEP_ARGUMENTS, [DEEP_ARGUMENTS]),
    ],
    ids=[
        "no JSON",
        "the next one is a call",
        "cut off",
        "no name of a tool",
        "another shape",
        "lacks a key",
        "nested too deep",
        "arguments nested too deep",
    ],
)
def test_what_is_no_call_stays_text(template: Any, output: str, parts: list[Part]) -> None:
    assert divide(template, [output]) == parts


def test_without_tools_calls_stay_text() -> None:
    output = f"Look: <tool_call>{JSON_OSLO}</tool_call>"
    assert divide(PLAIN, [output], tools=()) == [output]


def test_text_before_calls_is_kept_although_they_stand_on_lines_of_their_own() -> None:
    """The message that transformers makes has no content: the last line end counts."""
    output = f"Wait.\n<tool_call>{JSON_OSLO}</tool_call>\n<tool_call>{JSON_ROME}</tool_call>\n"
    assert divide(PLAIN, [output]) == ["Wait.", OSLO, ROME]


def test_the_prompt_may_open_the_reasoning() -> None:
    prompt = f"{START}<think>old</think>{START}<think>\n"
    assert divide(PLAIN, ["\nHm.\n</think>\nYes"], prefix=prompt) == [Reasoning("Hm."), "Yes"]


def test_text_is_known_as_soon_as_it_can_be() -> None:
    divider = ResponseDivider(load_response_template(PLAIN), START, TOOLS)
    pieces = [
        "<think>",
        "Hm",
        ". ",
        "1 <",
        " 2",
        "</th",
        "ink>",
        "\n\n",
        "Yes",
        " ",
        "<tool_",
        "call>",
        JSON_OSLO,
    ]
    parts = [divider.push(piece) for piece in [*pieces, "</tool_call>"]]
    reasoning = [[], [Reasoning("Hm")], [Reasoning(".")], [Reasoning(" 1")], [Reasoning(" < 2")], [], []]
    assert parts == [*reasoning, [], ["Yes"], [], [], [], [], [OSLO]]
