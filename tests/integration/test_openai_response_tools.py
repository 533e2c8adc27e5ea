"""Calls of functions in responses, as OpenAI's own SDK sees them."""

from __future__ import annotations

import json
from concurrent.futures import Future
from typing import Any

import httpx
import openai
import pytest
from openai import pydantic_responses_function_tool
from openai.types.responses import ParsedResponseFunctionToolCall, ResponseFunctionToolCall
from pydantic import BaseModel

from harness.waiting import TIMEOUT_SECONDS
from tasks.job import FinishReason, Status
from tests.integration.openai_events import assert_as_the_sdk, assert_whole, raw_events
from tests.integration.openai_harness import HELLO, Calls
from tests.integration.web_harness import Player, Run

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.openai_fixtures"]


class Weather(BaseModel):
    """The weather in a city."""

    city: str


TOOL: Any = pydantic_responses_function_tool(Weather, name="weather")
CALLS = [
    "Let me see. ",
    '<tool_call>{"name": "weather", ',
    '"arguments": {"city": "Oslo"}}</tool_',
    'call>\n<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>',
]
CALL_EVENTS = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]


def started(calls: Calls, **options: Any) -> tuple[Future[Any], Run]:
    """Calls the SDK, and claims the job."""
    reply = calls.call(
        calls.sdk.responses.create, **{"model": "m", "input": "hello", "tools": [TOOL], **options}
    )
    [run] = calls.start()
    return reply, run


def called(calls: Calls, *texts: str, **options: Any) -> Any:
    """Makes a response with these texts as its output."""
    reply, run = started(calls, **options)
    run.complete(*texts)
    return reply.result(TIMEOUT_SECONDS)


def conversation(run: Run) -> list[tuple[str, str, Any]]:
    """Returns the messages of a claimed job: roles, texts, and ids of calls."""
    return [
        (message.role, message.text, [call.id for call in message.tool_calls or ()] or message.tool_call_id)
        for message in run.claim.request.messages or ()
    ]


def function_calls(answer: Any) -> list[ResponseFunctionToolCall]:
    return [item for item in answer.output if item.type == "function_call"]


def outputs_of(answer: Any, result: str = "rain") -> list[Any]:
    return [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"{result} {call.arguments}"}
        for call in function_calls(answer)
    ]


def test_calls_are_items_of_the_output(sdk_calls: Calls, client: httpx.Client) -> None:
    reply, run = started(sdk_calls)
    [tool] = run.claim.request.tools or []
    assert (tool.function.name, tool.function.description) == ("weather", "The weather in a city.")
    assert tool.function.parameters == TOOL["parameters"]
    run.complete(*CALLS)
    answer = reply.result(TIMEOUT_SECONDS)
    assert [item.type for item in answer.output] == ["message", "function_call", "function_call"]
    assert (answer.status, answer.output_text) == ("completed", "Let me see.")
    found = [(call.name, json.loads(call.arguments), call.status) for call in function_calls(answer)]
    assert found == [("weather", {"city": city}, "completed") for city in ("Oslo", "Rome")]
    assert (answer.tools[0].name, answer.tools[0].strict, answer.tool_choice) == ("weather", True, "auto")
    raw = client.get(f"/v1/responses/{answer.id}").json()
    assert_as_the_sdk(raw)
    assert raw["tools"] == [TOOL]


def test_a_conversation_goes_on_with_the_results_by_its_id(sdk_calls: Calls, client: httpx.Client) -> None:
    first = called(sdk_calls, *CALLS)
    ids = [call.call_id for call in function_calls(first)]
    reply, run = started(sdk_calls, input=outputs_of(first), previous_response_id=first.id)
    so_far = [("user", "hello", None), ("assistant", "Let me see.", ids)]
    results = [("tool", 'rain {"city": "Oslo"}', ids[0]), ("tool", 'rain {"city": "Rome"}', ids[1])]
    assert conversation(run) == [*so_far, *results]
    run.complete("It rains.")
    second = reply.result(TIMEOUT_SECONDS)
    assert second.output_text == "It rains."
    third, run = started(sdk_calls, input="And now?", previous_response_id=second.id, tools=[])
    assert conversation(run) == [
        *so_far,
        *results,
        ("assistant", "It rains.", None),
        ("user", "And now?", None),
    ]
    run.complete("Sun.")
    items = sdk_calls.sdk.responses.input_items.list(third.result(TIMEOUT_SECONDS).id, order="asc")
    listed: list[Any] = list(items)
    assert [item.id for item in listed][1:4] == [item.id for item in first.output]
    assert [item.type for item in listed] == [
        "message",
        "message",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
        "message",
        "message",
    ]
    assert [item.call_id for item in listed if item.type == "function_call_output"] == ids
    assert_as_the_sdk(client.get(f"/v1/responses/{second.id}/input_items").json())


def test_a_conversation_goes_on_with_the_results_by_its_items(sdk_calls: Calls) -> None:
    first = called(sdk_calls, *CALLS)
    ids = [call.call_id for call in function_calls(first)]
    _, run = started(sdk_calls, input=[*HELLO, *first.output, *outputs_of(first)], background=True)
    assert conversation(run)[:3] == [
        ("user", "hello", None),
        ("assistant", "Let me see.", ids),
        ("tool", 'rain {"city": "Oslo"}', ids[0]),
    ]
    messages = run.claim.request.messages or []
    [call, _] = messages[1].tool_calls or []
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Oslo"})


def test_an_output_without_its_call_is_refused(sdk_calls: Calls) -> None:
    first = called(sdk_calls, "no call")
    given: Any = [{"type": "function_call_output", "call_id": "c", "output": "x"}]
    with pytest.raises(openai.BadRequestError, match="'c'") as caught:
        sdk_calls.sdk.responses.create(model="m", input=given, previous_response_id=first.id)
    assert caught.value.param == "input.0.call_id"


def test_arguments_are_parsed_by_the_sdk(sdk_calls: Calls) -> None:
    reply = sdk_calls.call(sdk_calls.sdk.responses.parse, model="m", input="hello", tools=[TOOL])
    [run] = sdk_calls.start()
    run.complete(*CALLS)
    answer = reply.result(TIMEOUT_SECONDS)
    parsed = [item for item in answer.output if isinstance(item, ParsedResponseFunctionToolCall)]
    assert [item.parsed_arguments for item in parsed] == [Weather(city="Oslo"), Weather(city="Rome")]
    given: Any = [*answer.output, *outputs_of(answer)]
    sent_back = sdk_calls.sdk.responses.create(model="m", input=given, background=True)
    assert sent_back.status == "queued"


def test_the_sdks_helper_streams_a_call(sdk_calls: Calls) -> None:
    def read() -> tuple[list[Any], Any]:
        with sdk_calls.sdk.responses.stream(model="m", input="hello", tools=[TOOL]) as stream:
            return list(stream), stream.get_final_response()

    reply = sdk_calls.call(read)
    [run] = sdk_calls.start()
    run.complete(*CALLS)
    events, final = reply.result(TIMEOUT_SECONDS)
    assert [event.type for event in events][-9:] == [*CALL_EVENTS, *CALL_EVENTS, "response.completed"]
    deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
    assert [json.loads(event.snapshot) for event in deltas] == [{"city": "Oslo"}, {"city": "Rome"}]
    cities = [item.parsed_arguments for item in final.output if item.type == "function_call"]
    assert cities == [Weather(city="Oslo"), Weather(city="Rome")]
    stored = sdk_calls.sdk.responses.retrieve(final.id)
    assert [item.id for item in stored.output] == [item.id for item in final.output]


def test_a_stream_is_resumed_in_the_middle_of_a_call(
    sdk_calls: Calls, client: httpx.Client, player: Player
) -> None:
    body = {"model": "m", "input": "hello", "stream": True, "background": True, "tools": [TOOL]}
    whole = sdk_calls.call(lambda: client.post("/v1/responses", json=body).text)
    [run] = sdk_calls.start()
    run.write(*CALLS[:2])
    url = f"/v1/responses/resp_{run.claim.job_id[4:]}?stream=true&starting_after="
    # So far: created, queued, in_progress, the message's item, its text and a delta.
    resumed = sdk_calls.call(lambda: client.get(f"{url}5").text)
    player.leases.release([(run.claim.job_id, run.claim.lease_token)], "drained")
    run = player.start(run.claim.job_id)
    run.complete(*CALLS[2:])
    events = raw_events(whole.result(TIMEOUT_SECONDS))
    assert_whole(events)
    assert [event["type"] for event in events][6:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        *CALL_EVENTS,
        *CALL_EVENTS,
        "response.completed",
    ]
    assert raw_events(resumed.result(TIMEOUT_SECONDS)) == events[6:]
    for number in range(len(events)):
        rest = client.get(f"{url}{number}")
        assert raw_events(rest.text) == events[number + 1 :]
        assert rest.status_code == (204 if number == len(events) - 1 else 200)


def test_a_call_that_is_cut_off_is_text(sdk_calls: Calls, client: httpx.Client) -> None:
    body = {"model": "m", "input": "hello", "stream": True, "tools": [TOOL]}
    reply = sdk_calls.call(lambda: client.post("/v1/responses", json=body).text)
    [run] = sdk_calls.start()
    run.write(*CALLS[:2], finish_reason=FinishReason.LENGTH)
    run.end(Status.COMPLETED)
    events = raw_events(reply.result(TIMEOUT_SECONDS))
    assert_whole(events)
    last = events[-1]["response"]
    assert (events[-1]["type"], last["output"][0]["status"]) == ("response.incomplete", "incomplete")
    assert last["output"][0]["content"][0]["text"] == CALLS[0] + CALLS[1]


@pytest.mark.parametrize(
    ("choice", "most"), [("required", None), ({"type": "function", "name": "weather"}, 1)]
)
def test_a_call_may_be_required(sdk_calls: Calls, choice: Any, most: int | None) -> None:
    reply, run = started(sdk_calls, tool_choice=choice)
    structure = run.claim.request.model_dump(exclude_none=True)["structured_outputs"]["json"]
    assert (structure["type"], structure.get("maxItems")) == ("array", most)
    run.complete('[{"name": "weather", "argum', 'ents": {"city": "Oslo"}}]')
    answer = reply.result(TIMEOUT_SECONDS)
    assert [item.type for item in answer.output] == ["function_call"]
    echoed = answer.tool_choice if isinstance(answer.tool_choice, str) else answer.tool_choice.model_dump()
    assert echoed == choice


def test_without_parallel_calls_there_is_one(sdk_calls: Calls) -> None:
    answer = called(sdk_calls, *CALLS, parallel_tool_calls=False)
    assert len(function_calls(answer)) == 1
    assert answer.parallel_tool_calls is False


@pytest.mark.parametrize("options", [{"tools": []}, {"tool_choice": "none"}])
def test_without_tools_a_call_is_text(sdk_calls: Calls, options: dict[str, Any]) -> None:
    reply, run = started(sdk_calls, **options)
    assert run.claim.request.tools is None
    run.complete(*CALLS)
    answer = reply.result(TIMEOUT_SECONDS)
    assert (answer.output_text, [item.type for item in answer.output]) == ("".join(CALLS), ["message"])
    assert [tool.name for tool in answer.tools] == ["weather"] * ("tools" not in options)
