"""Calls of tools, as OpenAI's SDK sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.waiting import TIMEOUT_SECONDS
from tests.integration.openai_harness import HELLO, Calls

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.openai_fixtures"]

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "the weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALLS = [
    "Let me see. ",
    '<tool_call>{"name": "weather", ',
    '"arguments": {"city": "Oslo"}}</tool_',
    'call>\n<tool_call>{"name": "weather", "arguments": {}}</tool_call>',
]


def test_calls_are_given_apart_from_the_text(sdk_calls: Calls) -> None:
    reply = sdk_calls.call(sdk_calls.sdk.chat.completions.create, model="m", messages=HELLO, tools=[WEATHER])
    [run] = sdk_calls.start()
    [tool] = run.claim.request.tools or []
    assert tool.function.name == "weather"
    run.complete(*CALLS)
    [choice] = reply.result(TIMEOUT_SECONDS).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    assert choice.message.tool_calls is not None
    functions = [call.function for call in choice.message.tool_calls if call.type == "function"]
    assert [(one.name, json.loads(one.arguments)) for one in functions] == [
        ("weather", {"city": "Oslo"}),
        ("weather", {}),
    ]


def test_the_conversation_goes_on_with_the_results(sdk_calls: Calls) -> None:
    chat = sdk_calls.sdk.chat.completions
    reply = sdk_calls.call(chat.create, model="m", messages=HELLO, tools=[WEATHER])
    [run] = sdk_calls.start()
    run.complete(CALLS[1], CALLS[2], "call>")
    message = reply.result(TIMEOUT_SECONDS).choices[0].message
    assert message.content is None
    assert message.tool_calls is not None
    call_id = message.tool_calls[0].id
    result = {"role": "tool", "tool_call_id": call_id, "content": "rain"}
    after = sdk_calls.call(chat.create, model="m", messages=[*HELLO, message, result], tools=[WEATHER])
    [run] = sdk_calls.start()
    _, called, answered = run.claim.request.messages or []
    assert called.tool_calls is not None
    assert (called.content, called.tool_calls[0].id, called.tool_calls[0].function.name) == (
        "",
        call_id,
        "weather",
    )
    assert (answered.role, answered.tool_call_id, answered.text) == ("tool", call_id, "rain")
    run.complete("It rains.")
    assert after.result(TIMEOUT_SECONDS).choices[0].message.content == "It rains."


def test_a_stream_has_the_same_calls_as_the_completion(sdk_calls: Calls) -> None:
    chat = sdk_calls.sdk.chat.completions
    with chat.stream(model="m", messages=HELLO, tools=[WEATHER]) as stream:
        [run] = sdk_calls.start()
        run.complete(*CALLS)
        done = stream.get_final_completion()
    [choice] = done.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    stored = chat.retrieve(done.id).choices[0].message
    assert stored.tool_calls is not None
    assert choice.message.tool_calls is not None
    assert [call.id for call in choice.message.tool_calls] == [call.id for call in stored.tool_calls]
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == [
        {"city": "Oslo"},
        {},
    ]


def test_without_parallel_calls_there_is_one(sdk_calls: Calls) -> None:
    reply = sdk_calls.call(
        sdk_calls.sdk.chat.completions.create,
        model="m",
        messages=HELLO,
        tools=[WEATHER],
        parallel_tool_calls=False,
    )
    [run] = sdk_calls.start()
    run.complete(*CALLS)
    message = reply.result(TIMEOUT_SECONDS).choices[0].message
    assert message.tool_calls is not None
    assert len(message.tool_calls) == 1


@pytest.mark.parametrize("options", [{}, {"tools": [WEATHER], "tool_choice": "none"}])
def test_without_tools_a_call_is_text(sdk_calls: Calls, options: dict[str, Any]) -> None:
    reply = sdk_calls.call(sdk_calls.sdk.chat.completions.create, model="m", messages=HELLO, **options)
    [run] = sdk_calls.start()
    assert run.claim.request.tools is None
    run.complete(*CALLS)
    [choice] = reply.result(TIMEOUT_SECONDS).choices
    assert (choice.message.content, choice.finish_reason) == ("".join(CALLS), "stop")
