"""Responses, as OpenAI's own SDK sees them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tasks.job import FinishReason, JobError, Status
from tasks.log import TokenEntry
from tests.integration.openai_events import assert_as_the_sdk
from tests.integration.openai_harness import Calls, run_async
from tests.integration.web_harness import Run, Server

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.openai_fixtures"]


def made(calls: Calls, *texts: str, **options: Any) -> Response:
    """Makes a response with these texts as its output."""
    reply = calls.call(calls.sdk.responses.create, **{"model": "m", "input": "hello", **options})
    [run] = calls.start()
    run.complete(*texts)
    answer = reply.result(TIMEOUT_SECONDS)
    assert isinstance(answer, Response)
    return answer


def in_background(calls: Calls, **options: Any) -> tuple[Response, Run]:
    """Makes a response in the background, and claims its job."""
    answer = calls.sdk.responses.create(model="m", input="hello", background=True, **options)
    assert (answer.status, answer.output, answer.background) == ("queued", [], True)
    [run] = calls.start()
    return answer, run


def messages_of(run: Run) -> list[tuple[str, str]]:
    """Returns the roles and texts of a claimed job's messages."""
    return [(message.role, message.text) for message in run.claim.request.messages or ()]


def test_a_response_is_a_job_of_the_same_queue(sdk_calls: Calls, client: httpx.Client) -> None:
    reply = sdk_calls.call(
        sdk_calls.sdk.responses.create,
        model="m",
        input=[{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
        instructions="Be brief.",
        max_output_tokens=5,
        temperature=0.5,
        top_p=0.9,
        user="ada",
        metadata={"k": "v"},
        extra_body={"top_k": 4, "seed": 3, "stop": "x", "priority": "high"},
    )
    [run] = sdk_calls.start()
    request = run.claim.request
    assert (request.max_tokens, request.temperature, request.top_p, request.seed) == (5, 0.5, 0.9, 3)
    assert (request.top_k, request.stop, request.priority) == (4, ["x"], "high")
    assert messages_of(run) == [("system", "Be brief."), ("user", "hello")]
    run.complete("Good", " day")
    answer = reply.result(TIMEOUT_SECONDS)
    assert isinstance(answer, Response)
    assert (answer.output_text, answer.status, answer.error) == ("Good day", "completed", None)
    assert (answer.instructions, answer.max_output_tokens, answer.user) == ("Be brief.", 5, "ada")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (3, 2, 5)
    job = client.get(f"/v1/jobs/{run.claim.job_id}").json()
    assert answer.metadata == job["metadata"] == {"k": "v"}
    assert answer.id == f"resp_{run.claim.job_id.removeprefix('job_')}"
    raw = client.get(f"/v1/responses/{answer.id}")
    assert raw.headers["X-Job-ID"] == run.claim.job_id
    assert_as_the_sdk(raw.json())
    assert sdk_calls.sdk.responses.retrieve(answer.id) == answer


def test_the_output_may_be_restricted_as_in_a_job(sdk_calls: Calls) -> None:
    _, run = in_background(sdk_calls, extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert run.claim.request.model_dump(exclude_none=True)["structured_outputs"] == {"choice": ["yes", "no"]}


def test_a_response_in_the_background_is_polled_until_its_end(sdk_calls: Calls) -> None:
    responses = sdk_calls.sdk.responses
    answer, run = in_background(sdk_calls)
    run.write("Good")
    so_far = responses.retrieve(answer.id)
    assert (so_far.status, so_far.output_text, so_far.usage) == ("in_progress", "Good", None)
    assert_as_the_sdk(so_far.model_dump(exclude_unset=True))
    run.write(" day", finish_reason=FinishReason.LENGTH)
    run.end(Status.COMPLETED)
    ended = responses.retrieve(answer.id)
    assert (ended.status, ended.output_text, ended.completed_at) == ("incomplete", "Good day", None)
    assert ended.incomplete_details is not None
    assert ended.incomplete_details.reason == "max_output_tokens"
    assert getattr(ended.output[0], "status", None) == "incomplete"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobError("engine_error", "broken"), "server_error"),
        (JobError("prompt_too_long", "9"), "invalid_prompt"),
    ],
)
def test_a_failed_response_says_why(sdk_calls: Calls, error: JobError, code: str) -> None:
    answer, run = in_background(sdk_calls, instructions="x" * 500)
    run.write("so far")
    run.end(Status.FAILED, error)
    ended = sdk_calls.sdk.responses.retrieve(answer.id)
    assert (ended.status, ended.output_text, ended.instructions) == ("failed", "so far", "x" * 500)
    assert ended.error is not None
    assert (ended.error.code, ended.error.message, ended.error.type) == (code, error.message, error.code)
    assert_as_the_sdk(ended.model_dump(exclude_unset=True))


def test_a_response_is_cancelled_and_deleted(sdk_calls: Calls, client: httpx.Client) -> None:
    responses = sdk_calls.sdk.responses
    answer, run = in_background(sdk_calls)
    run.write("Good")
    with pytest.raises(openai.ConflictError):
        responses.delete(answer.id)
    cancelled = sdk_calls.call(responses.cancel, answer.id)
    eventually(lambda: run.renew() is not None)
    run.end(Status.CANCELLED)
    ended = cancelled.result(TIMEOUT_SECONDS)
    assert (ended.status, ended.output_text) == ("cancelled", "Good")
    assert responses.cancel(answer.id) == ended == responses.retrieve(answer.id)
    responses.delete(answer.id)
    for call in (responses.retrieve, responses.delete, responses.cancel):
        with pytest.raises(openai.NotFoundError):
            call(answer.id)
    assert client.get(f"/v1/jobs/{run.claim.job_id}").status_code == 404


def test_a_waiting_response_is_cancelled_at_once(sdk_calls: Calls) -> None:
    answer = sdk_calls.sdk.responses.create(model="m", input="hello", background=True)
    cancelled = sdk_calls.sdk.responses.cancel(answer.id)
    assert (cancelled.status, cancelled.output) == ("cancelled", [])


def test_a_chain_of_three_has_the_whole_conversation(sdk_calls: Calls) -> None:
    first = made(sdk_calls, "one", instructions="First.")
    second = made(
        sdk_calls,
        "two",
        previous_response_id=first.id,
        input=[{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "again"}],
    )
    sdk_calls.sdk.responses.delete(first.id)
    third = sdk_calls.call(
        sdk_calls.sdk.responses.create,
        model="m",
        previous_response_id=second.id,
        input="and again",
        instructions="Third.",
    )
    [run] = sdk_calls.start()
    assert messages_of(run) == [
        ("system", "Third."),
        ("user", "hello"),
        ("assistant", "one"),
        ("developer", "Be kind."),
        ("user", "again"),
        ("assistant", "two"),
        ("user", "and again"),
    ]
    run.complete("three")
    answer = third.result(TIMEOUT_SECONDS)
    assert answer.previous_response_id == second.id
    assert second.previous_response_id == first.id


def test_the_input_is_listed_in_pages_with_ids_that_stay(sdk_calls: Calls, client: httpx.Client) -> None:
    items = sdk_calls.sdk.responses.input_items
    first = made(sdk_calls, "one", instructions="First.")
    second = made(
        sdk_calls, "two", previous_response_id=first.id, input=[{"role": "user", "content": "again"}]
    )
    listed = list(items.list(second.id, order="asc", limit=1))
    assert [getattr(item, "role", None) for item in listed] == ["user", "assistant", "user"]
    texts = [item.content[0].text for item in listed]  # type: ignore[union-attr,index]
    assert texts == ["hello", "one", "again"]
    assert list(items.list(second.id, limit=2)) == listed[::-1]
    assert [item.id for item in items.list(first.id)] == [listed[0].id]
    assert listed[1].id == first.output[0].id
    assert len({item.id for item in listed}) == 3
    page = client.get(f"/v1/responses/{second.id}/input_items", params={"limit": 2}).json()
    assert_as_the_sdk(page)
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, listed[2].id, listed[1].id)
    with pytest.raises(openai.BadRequestError) as caught:
        items.list(first.id, after="msg_none")
    assert caught.value.param == "after"


def test_outputs_may_be_sent_back_as_they_came(sdk_calls: Calls) -> None:
    first = made(sdk_calls, "one")
    given: Any = [{"role": "user", "content": "hello"}, *first.output, {"role": "user", "content": "again"}]
    sdk_calls.sdk.responses.create(model="m", input=given, background=True)
    [run] = sdk_calls.start()
    assert messages_of(run) == [("user", "hello"), ("assistant", "one"), ("user", "again")]


def test_log_probabilities_are_given_where_asked_for(sdk_calls: Calls) -> None:
    logged: Any = [["é", -0.5, [["é", -0.5], ["x", -1.5]]], ["\ufffd", -0.1, [["\ufffd", -0.1]]]]
    answer, run = in_background(sdk_calls, include=["message.output_text.logprobs"], top_logprobs=2)
    assert (run.claim.request.logprobs, answer.top_logprobs) == (2, 2)
    run._flush([TokenEntry(0, (7, 8), "é", FinishReason.STOP, logged)])
    run.end(Status.COMPLETED)
    ended = sdk_calls.sdk.responses.retrieve(answer.id)
    assert_as_the_sdk(ended.model_dump(exclude_unset=True))
    found = ended.output[0].content[0].logprobs  # type: ignore[union-attr,index]
    assert [(one.token, one.bytes, one.logprob) for one in found or ()] == [
        ("é", [195, 169], -0.5),
        ("\ufffd", [], -0.1),
    ]


def test_a_response_that_is_not_stored_is_soon_forgotten(sdk_calls: Calls, web_redis: Redis) -> None:
    answer = made(sdk_calls, "one", store=False)
    kept = made(sdk_calls, "two")
    assert sdk_calls.sdk.responses.retrieve(answer.id) == answer, "its stream may still be resumed"
    with pytest.raises(openai.BadRequestError) as caught:
        sdk_calls.sdk.responses.create(model="m", input="x", previous_response_id=answer.id)
    assert caught.value.code == "previous_response_not_found"
    ended_at = {
        one.id: float(str(web_redis.zscore(f"{keys.PREFIX}ended", f"job_{one.id[5:]}")))
        for one in (answer, kept)
    }
    assert ended_at[kept.id] - ended_at[answer.id] > 80_000, "the reaper sees it as nearly a day old"


def test_a_client_that_leaves_a_call_cancels_its_response(sdk_calls: Calls) -> None:
    impatient = sdk_calls.sdk.with_options(timeout=1)
    reply = sdk_calls.call(impatient.responses.create, model="m", input="hello")
    [run] = sdk_calls.start()
    assert isinstance(reply.exception(TIMEOUT_SECONDS), openai.APITimeoutError)
    eventually(lambda: run.renew() is not None)


def test_an_idempotency_key_leads_back_to_the_response(sdk_calls: Calls) -> None:
    options: Any = {"extra_headers": {"Idempotency-Key": "k"}}
    answer, run = in_background(sdk_calls, **options)
    run.complete("x")
    again = sdk_calls.sdk.responses.create(model="m", input="hello", background=True, **options)
    assert (again.id, again.status) == (answer.id, "completed")
    with pytest.raises(openai.BadRequestError):
        sdk_calls.sdk.responses.create(model="m", input="hello", **options)


def test_a_retried_job_is_a_response_as_well(sdk_calls: Calls, client: httpx.Client) -> None:
    answer, run = in_background(sdk_calls, instructions="Be brief.")
    run.end(Status.FAILED, JobError("engine_error", "broken"))
    retried = client.post(f"/v1/jobs/{run.claim.job_id}/retry").json()["id"]
    again = sdk_calls.sdk.responses.retrieve(f"resp_{retried[4:]}")
    assert (again.instructions, again.background, again.status) == (answer.instructions, True, "queued")


def test_the_asynchronous_client_drives_every_route(sdk_calls: Calls, server: Server) -> None:
    async def drive() -> list[Response]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as sdk:
            reply = asyncio.create_task(sdk.responses.create(model="m", input="hello"))
            [run] = await asyncio.to_thread(sdk_calls.start)
            run.complete("a")
            first = await reply
            queued = await sdk.responses.create(
                model="m", input="x", previous_response_id=first.id, background=True
            )
            items = [item async for item in sdk.responses.input_items.list(queued.id, limit=1)]
            assert len(items) == 3
            cancelled = await sdk.responses.cancel(queued.id)
            await sdk.responses.delete(first.id)
            return [first, cancelled, await sdk.responses.retrieve(queued.id)]

    first, cancelled, retrieved = run_async(drive())
    assert (first.output_text, cancelled.status, retrieved) == ("a", "cancelled", cancelled)
