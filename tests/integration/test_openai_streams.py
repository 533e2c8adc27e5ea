"""Streams of completions, as OpenAI's own SDK and plain HTTP clients see them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks.job import FinishReason, JobError, Status
from tests.integration.openai_harness import HELLO, Calls
from tests.integration.web_harness import Player, Server
from web.calls import MAX_IDS_IN_HEADER

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.openai_fixtures"]


def test_a_stream_has_the_role_the_text_the_reason_and_the_usage(sdk_calls: Calls) -> None:
    reply = sdk_calls.call(
        lambda: list(
            sdk_calls.sdk.chat.completions.create(
                model="m", messages=HELLO, n=2, stream=True, stream_options={"include_usage": True}
            )
        )
    )
    [run] = sdk_calls.start()
    run.write(" a", "", " b", choice=0, finish_reason=FinishReason.STOP)
    run.write('"\n\u2028', choice=1, finish_reason=FinishReason.LENGTH)
    run.end(Status.COMPLETED)
    *chunks, last = reply.result(TIMEOUT_SECONDS)
    seen = [(c.choices[0].index, c.choices[0].delta.role, c.choices[0].delta.content) for c in chunks]
    assert seen == [
        (0, "assistant", ""),
        (1, "assistant", ""),
        (0, None, " a"),
        (0, None, " b"),
        (0, None, None),
        (1, None, '"\n\u2028'),
        (1, None, None),
    ]
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop", "length"]
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 7


def test_a_stream_of_several_prompts_has_the_chunks_of_all_as_they_come(sdk_calls: Calls) -> None:
    stream = sdk_calls.sdk.completions.create(model="m", prompt=["a", "b"], stream=True)
    first, second = sdk_calls.start(2)
    chunks = iter(stream)

    def next_text() -> tuple[int, str]:
        choice = next(chunks).choices[0]
        return choice.index, choice.text

    second.write(" of b")
    assert next_text() == (1, " of b")
    first.write(" of a")
    assert next_text() == (0, " of a")
    second.complete(" end")
    assert [next_text(), next_text()] == [(1, " end"), (1, "")]
    first.complete(" end")
    assert [(c.choices[0].index, c.choices[0].text) for c in chunks] == [(0, " end"), (0, "")]


def test_a_stream_may_have_more_prompts_than_its_header_has_room_for(sdk_calls: Calls) -> None:
    count = MAX_IDS_IN_HEADER + 1
    stream = sdk_calls.sdk.completions.with_raw_response.create(model="m", prompt=["x"] * count, stream=True)
    ids = sdk_calls.new_jobs(count)
    assert stream.headers["X-Job-ID"].split(",") == ids[:MAX_IDS_IN_HEADER]
    for job_id in ids:
        sdk_calls.start_one(job_id).complete("y")
    texts = [chunk.choices[0].text for chunk in stream.parse()]
    assert sorted(texts) == sorted(["y", ""] * count)


def test_a_job_that_fails_in_its_stream_raises_in_the_stream(sdk_calls: Calls) -> None:
    stream = sdk_calls.sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
    [run] = sdk_calls.start()
    run.write("a")
    chunks = iter(stream)
    assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["", "a"]
    run.end(Status.FAILED, JobError("engine_error", "broken"))
    with pytest.raises(openai.APIError, match=f"{run.claim.job_id}: broken"):
        list(chunks)


def test_an_idempotency_key_attaches_to_the_running_stream(sdk_calls: Calls) -> None:
    options: dict[str, Any] = {
        "model": "m",
        "messages": HELLO,
        "stream": True,
        "extra_headers": {"Idempotency-Key": "k"},
    }
    first = iter(sdk_calls.sdk.chat.completions.create(**options))
    [run] = sdk_calls.start()
    run.write("a")
    assert [next(first).choices[0].delta.content for _ in range(2)] == ["", "a"]
    second = iter(sdk_calls.sdk.chat.completions.create(**options))
    assert [next(second).choices[0].delta.content for _ in range(2)] == ["", "a"]
    run.complete("b")
    assert [c.choices[0].delta.content for c in first] == ["b", None]
    assert [c.choices[0].delta.content for c in second] == ["b", None]


def messages_of(text: str) -> list[tuple[int | None, str]]:
    """Returns the id and the data of each Server-Sent Event."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines:
            found.append((int(lines["id"]) if "id" in lines else None, lines["data"]))
    return found


def test_a_stream_is_resumed_after_any_of_its_chunks(sdk_calls: Calls, client: httpx.Client) -> None:
    body = {
        "model": "m",
        "messages": HELLO,
        "stream": True,
        "n": 2,
        "stream_options": {"include_usage": True},
    }
    reply = sdk_calls.call(client.post, "/v1/chat/completions", json=body)
    [run] = sdk_calls.start()
    run.write("a", "b", finish_reason=FinishReason.STOP)
    run.write("c", choice=1, finish_reason=FinishReason.STOP)
    run.end(Status.COMPLETED)
    whole = messages_of(reply.result(TIMEOUT_SECONDS).text)
    assert whole[-1] == (5, "[DONE]")
    completion = json.loads(whole[0][1])["id"]
    url = f"/v1/chat/completions/{completion}"
    for place, (seq, _) in enumerate(whole):
        if seq is not None and seq < 5:
            rest = client.get(url, params={"include_usage": "1"}, headers={"Last-Event-ID": str(seq)})
            assert messages_of(rest.text) == whole[place + 1 :]
    assert client.get(url, headers={"Last-Event-ID": "5"}).status_code == 204
    assert messages_of(client.get(url, params={"stream": "1", "include_usage": "1"}).text) == whole
    chunk = ChatCompletionChunk.model_validate_json(whole[2][1])
    assert chunk.id == completion


def test_a_stream_that_nobody_resumes_is_cancelled(sdk_calls: Calls) -> None:
    stream = sdk_calls.sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
    [run] = sdk_calls.start()
    run.write("a")
    assert next(iter(stream)).choices[0].delta.role == "assistant"
    stream.close()
    eventually(lambda: run.renew() is not None)


@pytest.fixture
def impatient_sdk(short_interval_server: Server) -> Iterator[OpenAI]:
    """The SDK on a server that sends keep-alives all the time."""
    with OpenAI(base_url=f"{short_interval_server.url}/v1", api_key="any", timeout=TIMEOUT_SECONDS) as opened:
        yield opened


def test_keep_alives_between_chunks_do_not_end_the_sdks_stream(
    impatient_sdk: OpenAI, player: Player, web_redis: Redis
) -> None:
    """After a message with an id, its parser takes an empty line for a message."""
    sdk, calls = impatient_sdk, Calls(impatient_sdk, player, web_redis)
    stream = sdk.chat.completions.create(model="m", messages=HELLO, stream=True)
    [run] = calls.start()
    run.write("a")
    completion = next(iter(stream)).id
    with httpx.stream("GET", f"{sdk.base_url}chat/completions/{completion}?stream=1") as beside:
        lines = beside.iter_lines()
        assert next(line for line in lines if '"a"' in line)
        assert next(line for line in lines if line == ": keep-alive")
        run.complete("b")
        assert [chunk.choices[0].delta.content for chunk in stream] == ["a", "b", None]


def test_keep_alives_do_not_end_the_sdks_stream_of_a_response(
    impatient_sdk: OpenAI, player: Player, web_redis: Redis
) -> None:
    sdk, calls = impatient_sdk, Calls(impatient_sdk, player, web_redis)
    stream = sdk.responses.create(model="m", input="hello", stream=True)
    [run] = calls.start()
    run.write("a")
    created = next(iter(stream))
    assert created.type == "response.created"
    with httpx.stream("GET", f"{sdk.base_url}responses/{created.response.id}?stream=true") as beside:
        lines = beside.iter_lines()
        assert next(line for line in lines if '"delta":"a"' in line)
        assert next(line for line in lines if line == ": keep-alive")
        run.complete("b")
        assert [event.type for event in stream][-1] == "response.completed"


def test_ids_can_be_left_out_for_simple_parsers(sdk_calls: Calls, client: httpx.Client) -> None:
    body = {"model": "m", "messages": HELLO, "stream": True, "stream_options": {"include_ids": False}}
    reply = sdk_calls.call(client.post, "/v1/chat/completions", json=body)
    [run] = sdk_calls.start()
    run.complete("a")
    messages = [one for one in reply.result(TIMEOUT_SECONDS).text.split("\n\n") if one]
    assert all(message.startswith(("data: ", ":")) for message in messages)
    assert messages[-1] == "data: [DONE]"
