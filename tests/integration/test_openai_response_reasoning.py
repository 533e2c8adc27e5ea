"""Reasoning of models that think, as OpenAI's own SDK sees it in responses."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS
from tasks.job import FinishReason, Status
from tasks.reasoning_marks import ReasoningMarks
from tasks.settings import Settings
from tests.integration.openai_events import assert_as_the_sdk, assert_whole, raw_events
from tests.integration.openai_harness import Calls
from tests.integration.test_openai_response_tools import CALL_EVENTS, CALLS, TOOL
from tests.integration.web_harness import Player, RedisServer, Run

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.openai_fixtures"]

OPENED = ReasoningMarks("<think>", "</think>", is_opened=True)
THOUGHTS = ["Hm", ". 1 <", " 2</th", "ink>\n\n", "Yes", "."]
REASONING_EVENTS = [
    "response.output_item.added",
    "response.content_part.added",
    "response.reasoning_text.delta",
    "response.reasoning_text.delta",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
MESSAGE_EVENTS = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


@pytest.fixture
def player(web_redis: Redis, redis_of_web: RedisServer) -> Iterator[Player]:
    """Plays a worker whose model's outputs begin inside the reasoning."""
    settings = Settings(redis_url=redis_of_web.url, model_id="m", max_num_seqs=4)
    playing = Player(web_redis, settings)
    playing.info = replace(playing.info, reasoning_marks=OPENED)
    with playing:
        yield playing


def started(calls: Calls, **options: Any) -> tuple[Future[Any], Run]:
    """Calls the SDK, and claims the job."""
    reply = calls.call(calls.sdk.responses.create, **{"model": "m", "input": "hello", **options})
    [run] = calls.start()
    return reply, run


def answered(calls: Calls, *texts: str, **options: Any) -> Any:
    """Makes a response with these texts as its output."""
    reply, run = started(calls, **options)
    run.complete(*texts)
    return reply.result(TIMEOUT_SECONDS)


def conversation(run: Run) -> list[tuple[str, str, str | None]]:
    """Returns the messages of a claimed job: roles, texts and reasoning."""
    return [
        (message.role, message.text, message.reasoning_content)
        for message in run.claim.request.messages or ()
    ]


def test_reasoning_is_an_item_before_the_message(sdk_calls: Calls, client: httpx.Client) -> None:
    answer = answered(sdk_calls, *THOUGHTS)
    reasoning, message = answer.output
    assert (reasoning.type, reasoning.status, reasoning.summary) == ("reasoning", "completed", [])
    assert [(part.type, part.text) for part in reasoning.content] == [("reasoning_text", "Hm. 1 < 2")]
    assert reasoning.id.startswith("rs_")
    assert (message.type, answer.output_text) == ("message", "\n\nYes.")
    assert_as_the_sdk(client.get(f"/v1/responses/{answer.id}").json())


def test_the_streams_events(sdk_calls: Calls, client: httpx.Client) -> None:
    body = {"model": "m", "input": "hello", "stream": True, "tools": [TOOL]}
    reply = sdk_calls.call(lambda: client.post("/v1/responses", json=body).text)
    [run] = sdk_calls.start()
    run.complete(*THOUGHTS[:5], " ", *CALLS[1:3], "call>")
    events = raw_events(reply.result(TIMEOUT_SECONDS))
    assert_whole(events)
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        *REASONING_EVENTS,
        *[name for place, name in enumerate(MESSAGE_EVENTS) if place != 3],
        *CALL_EVENTS,
        "response.completed",
    ]


def test_the_stream_helper_understands_it(sdk_calls: Calls) -> None:
    with sdk_calls.sdk.responses.stream(model="m", input="hello") as stream:
        [run] = sdk_calls.start()
        run.complete(*THOUGHTS)
        events = list(stream)
        final = stream.get_final_response()
    assert [event.type for event in events][2:-1] == [*REASONING_EVENTS, *MESSAGE_EVENTS]
    deltas = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert "".join(deltas) == "Hm. 1 < 2"
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert final.output_text == "\n\nYes."


def test_a_stream_is_resumed_inside_the_reasoning(
    sdk_calls: Calls, client: httpx.Client, player: Player
) -> None:
    body = {"model": "m", "input": "hello", "stream": True, "background": True}
    whole = sdk_calls.call(lambda: client.post("/v1/responses", json=body).text)
    [run] = sdk_calls.start()
    run.write(*THOUGHTS[:2])
    url = f"/v1/responses/resp_{run.claim.job_id[4:]}?stream=true&starting_after="
    # So far: created, queued, in_progress, the item, its text and two deltas.
    resumed = sdk_calls.call(lambda: client.get(f"{url}5").text)
    player.leases.release([(run.claim.job_id, run.claim.lease_token)], "drained")
    run = player.start(run.claim.job_id)
    run.complete(*THOUGHTS[2:])
    events = raw_events(whole.result(TIMEOUT_SECONDS))
    assert_whole(events)
    assert [event["type"] for event in events][3:-1] == [*REASONING_EVENTS, *MESSAGE_EVENTS]
    assert raw_events(resumed.result(TIMEOUT_SECONDS)) == events[6:]
    for number in range(len(events)):
        rest = client.get(f"{url}{number}")
        assert raw_events(rest.text) == events[number + 1 :]
        assert rest.status_code == (204 if number == len(events) - 1 else 200)


def test_a_response_in_the_middle_of_its_reasoning(sdk_calls: Calls) -> None:
    responses = sdk_calls.sdk.responses
    made = responses.create(model="m", input="hello", background=True)
    [run] = sdk_calls.start()
    run.write(*THOUGHTS[:2])
    [item] = responses.retrieve(made.id).output
    assert item.type == "reasoning"
    assert (item.status, [part.text for part in item.content or ()]) == ("in_progress", ["Hm. 1 "])
    run.write("!", finish_reason=FinishReason.LENGTH)
    run.end(Status.COMPLETED)
    answer = responses.retrieve(made.id)
    [item] = answer.output
    assert item.type == "reasoning"
    assert (answer.status, item.status, answer.output_text) == ("incomplete", "incomplete", "")
    assert [part.text for part in item.content or ()] == ["Hm. 1 <!"]


@pytest.mark.parametrize("by_id", [True, False])
def test_the_conversation_goes_on_with_the_reasoning(sdk_calls: Calls, by_id: bool) -> None:
    first = answered(sdk_calls, *THOUGHTS)
    sent: Any = [*first.output, {"role": "user", "content": "And now?"}]
    options = {"previous_response_id": first.id, "input": "And now?"} if by_id else {"input": sent}
    reply, run = started(sdk_calls, **options)
    earlier = [("user", "hello", None)] if by_id else []
    assert conversation(run) == [
        *earlier,
        ("assistant", "\n\nYes.", "Hm. 1 < 2"),
        ("user", "And now?", None),
    ]
    run.complete("So.</think>No.")
    second = reply.result(TIMEOUT_SECONDS)
    listed: list[Any] = list(sdk_calls.sdk.responses.input_items.list(second.id, order="asc"))
    assert [item.type for item in listed] == ["message"] * by_id + ["reasoning", "message", "message"]
    reasoning = next(item for item in listed if item.type == "reasoning")
    assert [part.text for part in reasoning.content] == ["Hm. 1 < 2"]
    if by_id:
        assert [item.id for item in listed][1:3] == [item.id for item in first.output]


def test_calls_have_the_reasoning_before_them(sdk_calls: Calls, client: httpx.Client) -> None:
    first = answered(sdk_calls, "Ask.</think>\n", *CALLS[1:3], "call>", tools=[TOOL])
    assert [item.type for item in first.output] == ["reasoning", "function_call"]
    result = {"type": "function_call_output", "call_id": first.output[1].call_id, "output": "rain"}
    reply, run = started(sdk_calls, input=[result], previous_response_id=first.id, tools=[TOOL])
    assert conversation(run) == [("user", "hello", None), ("assistant", "", "Ask."), ("tool", "rain", None)]
    assert [len(message.tool_calls or ()) for message in run.claim.request.messages or ()] == [0, 1, 0]
    run.complete("So.</think>It rains.")
    answer = reply.result(TIMEOUT_SECONDS)
    listed = client.get(f"/v1/responses/{answer.id}/input_items?order=asc").json()
    assert_as_the_sdk(listed)
    assert [item["type"] for item in listed["data"]] == [
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
    ]


@pytest.mark.parametrize("field", ["effort", "summary"])
def test_reasoning_cannot_be_chosen(sdk_calls: Calls, field: str) -> None:
    given: Any = {field: "low" if field == "effort" else "auto"}
    with pytest.raises(openai.BadRequestError, match="not supported") as caught:
        sdk_calls.sdk.responses.create(model="m", input="hello", reasoning=given)
    assert caught.value.param == f"reasoning.{field}"
    assert answered(sdk_calls, *THOUGHTS, reasoning={}).output_text == "\n\nYes."
