"""Streams of responses: their events, and that every reader gets the same ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks.job import FinishReason, JobError, Status
from tasks.log import TokenEntry
from tests.integration.openai_events import Raw, assert_whole, raw_events
from tests.integration.openai_harness import Calls, run_async
from tests.integration.web_harness import Player, RedisServer, Run, Server, serving

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.openai_fixtures"]

STARTS = ["response.output_item.added", "response.content_part.added"]
DELTA = "response.output_text.delta"
DONE = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]


def types_of(events: list[Raw]) -> list[str]:
    return [event["type"] for event in events]


def streamed(calls: Calls, client: httpx.Client, **options: Any) -> tuple[Any, Run]:
    """Makes a streamed response, and claims its job. Returns its stream's text, which comes with its end."""
    body = {"model": "m", "input": "hello", "stream": True, **options}
    reply = calls.call(lambda: client.post("/v1/responses", json=body).text)
    [run] = calls.start()
    return reply, run


def test_a_stream_has_typed_events(sdk_calls: Calls, client: httpx.Client) -> None:
    reply, run = streamed(sdk_calls, client, instructions="Be brief.")
    run.write(" a", "", '"\n\u2028', finish_reason=FinishReason.STOP)
    run.end(Status.COMPLETED)
    events = raw_events(reply.result(TIMEOUT_SECONDS))
    assert_whole(events)
    assert types_of(events) == [
        "response.created",
        "response.in_progress",
        *STARTS,
        DELTA,
        DELTA,
        *DONE,
        "response.completed",
    ]
    assert [event["delta"] for event in events if "delta" in event] == [" a", '"\n\u2028']
    last = events[-1]["response"]
    assert client.get(f"/v1/responses/{last['id']}").json() == last


@pytest.mark.parametrize(
    ("reason", "status", "error", "name", "shown"),
    [
        (FinishReason.LENGTH, Status.COMPLETED, None, "response.incomplete", "incomplete"),
        (None, Status.FAILED, JobError("engine_error", "broken"), "response.failed", "failed"),
        (None, Status.CANCELLED, None, "response.incomplete", "cancelled"),
    ],
)
def test_a_stream_says_how_a_response_ended(
    sdk_calls: Calls,
    client: httpx.Client,
    reason: FinishReason | None,
    status: Status,
    error: JobError | None,
    name: str,
    shown: str,
) -> None:
    reply, run = streamed(sdk_calls, client, background=True)
    run.write("a", finish_reason=reason)
    run.end(status, error)
    events = raw_events(reply.result(TIMEOUT_SECONDS))
    assert_whole(events)
    assert types_of(events)[:2] == ["response.created", "response.queued"]
    assert types_of(events)[-4:] == [*DONE, name]
    assert events[-1]["response"]["status"] == shown
    assert events[-2]["item"]["status"] == "incomplete"


def test_a_response_that_never_started_has_no_output(sdk_calls: Calls, client: httpx.Client) -> None:
    answer = sdk_calls.sdk.responses.create(model="m", input="x", background=True)
    sdk_calls.sdk.responses.cancel(answer.id)
    events = raw_events(client.get(f"/v1/responses/{answer.id}?stream=true").text)
    assert_whole(events)
    assert types_of(events) == ["response.created", "response.queued", "response.incomplete"]


def test_a_stream_is_resumed_after_each_of_its_events_by_any_web_process(
    sdk_calls: Calls, client: httpx.Client, player: Player, redis_of_web: RedisServer, tmp_path: Path
) -> None:
    logged: Any = [["é", -0.5, [["x", -1.5]]]]
    options = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    reply, run = streamed(sdk_calls, client, background=True, **options)
    run._flush([TokenEntry(0, (7,), "", None, logged), TokenEntry(0, (8,), "b", None, logged)])
    job_id = run.claim.job_id
    with serving(redis_of_web.url, tmp_path) as other:
        url = f"/v1/responses/resp_{job_id[4:]}"
        running = sdk_calls.call(lambda: httpx.get(f"{other.url}{url}?stream=true&starting_after=4").text)
        player.leases.release([(job_id, run.claim.lease_token)], "drained")
        run = player.start(job_id)
        run._flush([TokenEntry(0, (9,), "c", FinishReason.STOP, logged)])
        run.end(Status.COMPLETED)
        whole = raw_events(reply.result(TIMEOUT_SECONDS))
        assert_whole(whole)
        assert types_of(whole).count("response.in_progress") == 1, "a takeover adds no event"
        assert raw_events(running.result(TIMEOUT_SECONDS)) == whole[5:]
        for place in range(len(whole)):
            base = (client.base_url, other.url)[place % 2]
            rest = httpx.get(f"{base}{url}", params={"stream": "true", "starting_after": place})
            assert raw_events(rest.text) == whole[place + 1 :]
            assert rest.status_code == (204 if place == len(whole) - 1 else 200)
        again = httpx.get(f"{other.url}{url}", headers={"Last-Event-ID": "3"})
        assert raw_events(again.text) == whole[4:]
        assert raw_events(httpx.get(f"{other.url}{url}?stream=true").text) == whole


def test_the_sdks_helper_makes_and_resumes_a_stream(sdk_calls: Calls) -> None:
    responses = sdk_calls.sdk.responses

    def read() -> tuple[list[Any], Any]:
        with responses.stream(model="m", input="hello", background=True) as stream:
            events = list(stream)
            return events, stream.get_final_response()

    reply = sdk_calls.call(read)
    [run] = sdk_calls.start()
    run.write("a", "b")
    run.complete("c")
    events, final = reply.result(TIMEOUT_SECONDS)
    assert (final.output_text, final.status) == ("abc", "completed")
    assert [event.snapshot for event in events if event.type == DELTA] == ["a", "ab", "abc"]
    with responses.stream(response_id=final.id, starting_after=5) as stream:
        rest = list(stream)
        assert stream.get_final_response().output_text == "abc"
    assert [event.sequence_number for event in rest] == list(range(6, len(events)))
    raw = list(responses.retrieve(final.id, stream=True, starting_after=5))
    assert [event.sequence_number for event in raw] == [event.sequence_number for event in rest]


def test_the_asynchronous_client_reads_a_stream(sdk_calls: Calls, server: Server) -> None:
    async def read() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as sdk:
            stream = await sdk.responses.create(model="m", input="hello", stream=True, background=True)
            [run] = await asyncio.to_thread(sdk_calls.start)
            run.complete("a", "b")
            return [event.type async for event in stream]

    assert run_async(read())[-1] == "response.completed"


def test_an_idempotency_key_attaches_to_the_running_stream(sdk_calls: Calls) -> None:
    options: Any = {"model": "m", "input": "hello", "stream": True, "extra_headers": {"Idempotency-Key": "k"}}
    first = sdk_calls.call(lambda: list(sdk_calls.sdk.responses.create(**options)))
    [run] = sdk_calls.start()
    run.write("a")
    second = iter(sdk_calls.sdk.responses.create(**options))
    begun = [next(second) for _ in range(5)]
    assert begun[-1].type == DELTA
    run.complete("b")
    assert [*begun, *second] == first.result(TIMEOUT_SECONDS)


@pytest.mark.parametrize("background", [False, True])
def test_a_stream_that_nobody_resumes_is_cancelled_but_not_in_the_background(
    sdk_calls: Calls, background: bool
) -> None:
    options: Any = {"model": "m", "input": "hello", "stream": True}
    left = [sdk_calls.sdk.responses.create(**options, background=background)]
    [run] = sdk_calls.start()
    run.write("a")
    assert next(iter(left[0])).type == "response.created"
    left.pop().close()
    # Its client leaves later, so it is cancelled later.
    witness = sdk_calls.call(lambda: sdk_calls.sdk.responses.create(**options))
    [other] = sdk_calls.start()
    other.write("a")
    witness.result(TIMEOUT_SECONDS).close()
    eventually(lambda: [run.renew(), other.renew()][1] is not None)
    assert (run.renew() is None) == background


def test_a_stream_that_fails_before_its_first_token_is_an_error_of_the_call(sdk_calls: Calls) -> None:
    reply = sdk_calls.call(sdk_calls.sdk.responses.create, model="m", input="hello", stream=True)
    [run] = sdk_calls.start()
    run.end(Status.FAILED, JobError("prompt_too_long", "it has 9 of 5"))
    caught = reply.exception(TIMEOUT_SECONDS)
    assert isinstance(caught, openai.BadRequestError)
    assert (caught.code, caught.param) == ("context_length_exceeded", "input")
    again = sdk_calls.sdk.responses.retrieve(f"resp_{run.claim.job_id[4:]}", stream=True)
    assert [event.type for event in again][-1] == "response.failed"
