"""Errors of responses: OpenAI's SDK raises the class that its users expect."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response

from harness.waiting import TIMEOUT_SECONDS
from tasks.job import JobError, Status
from tests.integration.openai_harness import HELLO, Calls
from web.openai.responses.conversation import MAX_CONVERSATION_BYTES

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.openai_fixtures"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"bogus": 1}, "bogus"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "o"}]}, "input.0.call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0.type"),
        ({"tools": [{"type": "web_search", "search_context_size": "low"}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}}},
            "text.format.schema",
        ),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort"),
        ({"background": True, "store": False}, "store"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": ["reasoning.encrypted_content"]}, "include.0"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"max_tokens": 3}, "max_tokens"),
        ({"n": 2}, "n"),
    ],
)
@pytest.mark.usefixtures("player")
def test_a_bad_field_is_a_400_that_names_it(sdk: OpenAI, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model="m", input="hello", extra_body=body)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert param in caught.value.message


@pytest.mark.parametrize(
    "query", ["starting_after=3", "stream=true&starting_after=x", "stream=true&include_obfuscation=true"]
)
def test_a_bad_query_is_a_400_that_names_it(sdk_calls: Calls, client: httpx.Client, query: str) -> None:
    answer = sdk_calls.sdk.responses.create(model="m", input="hello", background=True)
    refused = client.get(f"/v1/responses/{answer.id}?{query}")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] in query


@pytest.mark.usefixtures("player")
def test_a_model_that_no_worker_announced_is_not_found(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.responses.create(model="gpt-9", input="hello")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_only_a_response_that_has_an_answer_is_continued(sdk_calls: Calls) -> None:
    def continued(response_id: str) -> Response:
        return sdk_calls.sdk.responses.create(
            model="m", input="x", background=True, previous_response_id=response_id
        )

    chat = sdk_calls.call(sdk_calls.sdk.chat.completions.create, model="m", messages=HELLO)
    [run] = sdk_calls.start()
    run.complete("x")
    chat.result(TIMEOUT_SECONDS)
    for unknown in ("resp_none", "none", f"resp_{run.claim.job_id[4:]}"):
        with pytest.raises(openai.BadRequestError) as caught:
            continued(unknown)
        assert (caught.value.code, caught.value.param) == (
            "previous_response_not_found",
            "previous_response_id",
        )
    answer = sdk_calls.sdk.responses.create(model="m", input="hello", background=True)
    with pytest.raises(openai.ConflictError, match="queued"):
        continued(answer.id)
    [run] = sdk_calls.start()
    with pytest.raises(openai.ConflictError, match="in_progress"):
        continued(answer.id)
    run.end(Status.FAILED, JobError("engine_error", "broken"))
    with pytest.raises(openai.BadRequestError, match="failed"):
        continued(answer.id)


def test_a_conversation_has_a_longest_length(sdk_calls: Calls) -> None:
    half = "x" * (MAX_CONVERSATION_BYTES // 2 - 200)
    answer = sdk_calls.sdk.responses.create(model="m", input=half, background=True)
    [run] = sdk_calls.start()
    run.complete("y")
    options: Any = {"model": "m", "background": True, "previous_response_id": answer.id}
    with pytest.raises(openai.BadRequestError, match="bytes as JSON") as caught:
        sdk_calls.sdk.responses.create(**options, input=half + "x" * 400)
    assert caught.value.param == "previous_response_id"
    assert sdk_calls.sdk.responses.create(**options, input=half).status == "queued"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (JobError("invalid_messages", "no"), openai.BadRequestError, "invalid_messages"),
        (JobError("engine_error", "broken"), openai.InternalServerError, "engine_error"),
        (JobError("timeout", "late"), openai.InternalServerError, "timeout"),
    ],
)
def test_a_job_that_fails_is_an_error_of_the_call(
    sdk_calls: Calls, error: JobError, kind: type[openai.APIStatusError], code: str
) -> None:
    reply = sdk_calls.call(sdk_calls.sdk.responses.create, model="m", input="hello")
    [run] = sdk_calls.start()
    run.end(Status.FAILED, error)
    caught = reply.exception(TIMEOUT_SECONDS)
    assert isinstance(caught, kind)
    assert caught.code == code
    assert caught.response.headers["X-Job-ID"] == run.claim.job_id


def test_what_a_read_cannot_include_is_refused(sdk_calls: Calls) -> None:
    responses = sdk_calls.sdk.responses
    made = responses.create(model="m", input="hello", background=True)
    assert responses.retrieve(made.id, include=["message.output_text.logprobs"]).id == made.id
    for read in (responses.retrieve, responses.input_items.list):
        with pytest.raises(openai.BadRequestError) as caught:
            read(made.id, include=["reasoning.encrypted_content"])
        assert caught.value.param == "include[].0"


@pytest.mark.usefixtures("player")
def test_jobs_of_other_routes_are_no_responses(sdk: OpenAI, client: httpx.Client) -> None:
    job_id = client.post("/v1/jobs", json={"prompt": "x"}).json()["id"]
    for call in (sdk.responses.retrieve, sdk.responses.delete, sdk.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            call(f"resp_{job_id[4:]}")
    with pytest.raises(openai.NotFoundError):
        sdk.responses.input_items.list(f"resp_{job_id[4:]}")
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"
