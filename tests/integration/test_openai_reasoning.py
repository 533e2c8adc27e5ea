"""Reasoning of models that think, as OpenAI's own SDK sees it in chat completions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS
from tasks.job import FinishReason, Status
from tasks.reasoning_marks import ReasoningMarks
from tasks.settings import Settings
from tests.integration.openai_harness import HELLO, Calls
from tests.integration.test_openai_tools import CALLS, WEATHER
from tests.integration.web_harness import Player, RedisServer

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.openai_fixtures"]

OPENED = ReasoningMarks("<think>", "</think>", is_opened=True)
CLOSED = ReasoningMarks("<think>", "</think>", is_opened=False)
THOUGHTS = ["Hm", ". 1 <", " 2</th", "ink>\n\n", "Yes", "."]


@pytest.fixture
def player(web_redis: Redis, redis_of_web: RedisServer) -> Iterator[Player]:
    """Plays a worker whose model's outputs begin inside the reasoning."""
    settings = Settings(redis_url=redis_of_web.url, model_id="m", max_num_seqs=4)
    playing = Player(web_redis, settings)
    playing.info = replace(playing.info, reasoning_marks=OPENED)
    with playing:
        yield playing


def answered(calls: Calls, *texts: str, **options: Any) -> Any:
    """Makes a chat completion with these texts as its output, and returns its choice."""
    create = calls.sdk.chat.completions.create
    reply = calls.call(create, **{"model": "m", "messages": HELLO, **options})
    [run] = calls.start()
    run.complete(*texts)
    return reply.result(TIMEOUT_SECONDS).choices[0]


def test_reasoning_is_given_apart_from_the_answer(sdk_calls: Calls) -> None:
    choice = answered(sdk_calls, *THOUGHTS)
    assert (choice.message.reasoning_content, choice.message.content) == ("Hm. 1 < 2", "\n\nYes.")
    assert choice.finish_reason == "stop"


def test_the_job_keeps_the_whole_text(sdk_calls: Calls, client: httpx.Client) -> None:
    create = sdk_calls.sdk.chat.completions.with_raw_response.create
    reply = sdk_calls.call(create, model="m", messages=HELLO)
    [run] = sdk_calls.start()
    run.complete(*THOUGHTS)
    reply.result(TIMEOUT_SECONDS)
    job = client.get(f"/v1/jobs/{run.claim.job_id}").json()
    assert job["output"][0]["text"] == "".join(THOUGHTS)
    assert "reasoning_marks" not in job
    events = client.get(f"/v1/jobs/{run.claim.job_id}/events").text
    texts = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")]
    assert [event["text"] for event in texts if event["type"] == "token"] == THOUGHTS


def test_a_stream_has_the_reasoning_first(sdk_calls: Calls) -> None:
    create = sdk_calls.sdk.chat.completions.create
    stream: Any = sdk_calls.call(lambda: list(create(model="m", messages=HELLO, stream=True)))
    [run] = sdk_calls.start()
    run.complete(*THOUGHTS)
    deltas = [chunk.choices[0].delta for chunk in stream.result(TIMEOUT_SECONDS)]
    told = [delta.model_dump(exclude_unset=True) for delta in deltas]
    assert told == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm"},
        {"reasoning_content": ". 1 "},
        {"reasoning_content": "< 2"},
        {"content": "\n\nYes"},
        {"content": "."},
        {},
    ]


def test_calls_come_after_the_reasoning(sdk_calls: Calls) -> None:
    choice = answered(sdk_calls, "Ask <tool_call>?", "</think>\n", *CALLS, tools=[WEATHER])
    message = choice.message
    assert (message.reasoning_content, message.content) == ("Ask <tool_call>?", "\nLet me see.")
    assert (len(message.tool_calls), choice.finish_reason) == (2, "tool_calls")


def test_the_conversation_goes_on_with_the_reasoning(sdk_calls: Calls) -> None:
    message = answered(sdk_calls, "Ask.</think>", *CALLS[1:3], "call>", tools=[WEATHER]).message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    create = sdk_calls.sdk.chat.completions.create
    messages: Any = [*HELLO, message, result]
    reply = sdk_calls.call(create, model="m", messages=messages, tools=[WEATHER])
    [run] = sdk_calls.start()
    _, asked, _ = run.claim.request.messages or []
    assert (asked.reasoning_content, asked.content, len(asked.tool_calls or ())) == ("Ask.", "", 1)
    run.complete("It rains")
    assert reply.result(TIMEOUT_SECONDS).choices[0].message.content is None


def test_an_output_that_ends_inside_the_reasoning_has_no_content(sdk_calls: Calls) -> None:
    reply = sdk_calls.call(sdk_calls.sdk.chat.completions.create, model="m", messages=HELLO, max_tokens=2)
    [run] = sdk_calls.start()
    run.write("Hm", ". 1 <", finish_reason=FinishReason.LENGTH)
    run.end(Status.COMPLETED)
    choice: Any = reply.result(TIMEOUT_SECONDS).choices[0]
    assert choice.message.content is None
    assert choice.message.reasoning_content == "Hm. 1 <"
    assert choice.finish_reason == "length"


def test_reasoning_may_be_left_out(sdk_calls: Calls) -> None:
    message = answered(sdk_calls, *THOUGHTS, extra_body={"include_reasoning": False}).message
    assert message.content == "\n\nYes."
    assert "reasoning_content" not in message.model_dump()


def test_a_restricted_output_is_not_divided(sdk_calls: Calls) -> None:
    message = answered(sdk_calls, '{"a":', "1}", response_format={"type": "json_object"}).message
    assert message.content == '{"a":1}'
    assert "reasoning_content" not in message.model_dump()


def test_a_model_that_writes_no_reasoning_may_write_its_marks(sdk_calls: Calls, player: Player) -> None:
    player.info = replace(player.info, reasoning_marks=None)
    player.leases.heartbeat(player.info)
    message = answered(sdk_calls, "<think>Hm.</think>Yes.").message
    assert message.content == "<think>Hm.</think>Yes."
    assert "reasoning_content" not in message.model_dump()


def test_a_model_that_opens_its_reasoning_itself(sdk_calls: Calls, player: Player) -> None:
    player.info = replace(player.info, reasoning_marks=CLOSED)
    player.leases.heartbeat(player.info)
    message = answered(sdk_calls, "<thi", "nk>", *THOUGHTS).message
    assert (message.reasoning_content, message.content) == ("Hm. 1 < 2", "\n\nYes.")
    assert answered(sdk_calls, "Yes.").message.content == "Yes."


def events_of(text: str) -> list[tuple[str | None, str]]:
    """Returns the messages of a stream: the id, if there is one, and the data."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines.get("id"), lines["data"]))
    return found


@pytest.mark.parametrize("options", [{}, {"n": 2}, {"tools": [WEATHER]}, {"include_reasoning": False}])
def test_a_stream_is_resumed_anywhere(
    sdk_calls: Calls, client: httpx.Client, player: Player, options: dict[str, Any]
) -> None:
    """The job loses its worker inside the reasoning, and its clients see nothing of that."""
    body = {"model": "m", "messages": HELLO, "stream": True, **options}
    whole = sdk_calls.call(lambda: client.post("/v1/chat/completions", json=body).text)
    [run] = sdk_calls.start()
    choices: Sequence[int] = range(int(options.get("n", 1)))
    for choice in choices:
        run.write(*THOUGHTS[:2], choice=choice)
    player.leases.release([(run.claim.job_id, run.claim.lease_token)], "drained")
    run = player.start(run.claim.job_id)
    for choice in choices:
        run.write(*THOUGHTS[2:], choice=choice, finish_reason=FinishReason.STOP)
    run.end(Status.COMPLETED)
    events = events_of(whole.result(TIMEOUT_SECONDS))
    ids = [event_id for event_id, _ in events if event_id is not None]
    assert len(ids) > 3
    url = f"/v1/chat/completions/chatcmpl-{run.claim.job_id[4:]}"
    for event_id in ids[:-1]:
        place = [known for known, _ in events].index(event_id)
        rest = events_of(client.get(url, params={"after": event_id}).text)
        assert rest == events[place + 1 :]
    texts = [json.loads(data)["choices"][0]["delta"] for _, data in events if data != "[DONE]"]
    shown = "".join(delta.get("reasoning_content", "") for delta in texts)
    assert shown == "" if "include_reasoning" in options else "Hm. 1 < 2" in shown
