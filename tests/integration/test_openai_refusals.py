"""Errors of completions: OpenAI's SDK raises the class that its users expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

from harness.product import Web
from harness.waiting import TIMEOUT_SECONDS
from tasks.job import JobError, Status
from tests.integration.openai_harness import HELLO, Calls
from tests.integration.web_harness import RedisServer, serving
from web.openai.parameters import MAX_PROMPTS

pytest_plugins = [
    "tests.integration.web_fixtures",
    "tests.integration.openai_fixtures",
    "tests.integration.product_fixtures",
]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"bogus": 1}, "bogus"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
        ({"n": 5}, "n"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"store": False}, "store"),
        ({"logprobs": False, "top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
@pytest.mark.usefixtures("player")
def test_a_bad_field_is_a_400_that_names_it(sdk: OpenAI, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**{"model": "m", "messages": HELLO, "extra_body": body})
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert param in caught.value.message


@pytest.mark.usefixtures("player")
def test_too_many_prompts_are_refused(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=f"at most {MAX_PROMPTS} items"):
        sdk.completions.create(model="m", prompt=["x"] * (MAX_PROMPTS + 1))


@pytest.mark.usefixtures("player")
def test_a_model_that_no_worker_announced_is_not_found(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.chat.completions.create(model="gpt-9", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"
    assert [model.id for model in sdk.models.list()] == ["m"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (JobError("prompt_too_long", "it has 9 of 5"), openai.BadRequestError, "context_length_exceeded"),
        (JobError("invalid_messages", "no"), openai.BadRequestError, "invalid_messages"),
        (JobError("invalid_grammar", "no"), openai.BadRequestError, "invalid_grammar"),
        (JobError("engine_error", "broken"), openai.InternalServerError, "engine_error"),
        (JobError("timeout", "late"), openai.InternalServerError, "timeout"),
    ],
)
def test_a_job_that_fails_before_its_first_token_is_an_error_of_the_call(
    sdk_calls: Calls, stream: bool, error: JobError, kind: type[openai.APIStatusError], code: str
) -> None:
    reply = sdk_calls.call(sdk_calls.sdk.chat.completions.create, model="m", messages=HELLO, stream=stream)
    [run] = sdk_calls.start()
    run.end(Status.FAILED, error)
    caught = reply.exception(TIMEOUT_SECONDS)
    assert isinstance(caught, kind)
    assert caught.code == code
    assert error.message in caught.message
    assert caught.response.headers["X-Job-ID"] == run.claim.job_id


def test_a_cancelled_job_is_not_repeated_by_the_sdk(sdk_calls: Calls, client: httpx.Client) -> None:
    eager = sdk_calls.sdk.with_options(max_retries=3)
    reply = sdk_calls.call(eager.chat.completions.create, model="m", messages=HELLO)
    [job_id] = sdk_calls.new_jobs()
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert isinstance(reply.exception(TIMEOUT_SECONDS), openai.ConflictError)
    assert len(client.get("/v1/jobs").json()["data"]) == 1


@pytest.mark.usefixtures("player")
def test_jobs_of_other_routes_are_no_completions(sdk: OpenAI, client: httpx.Client) -> None:
    job_id = client.post("/v1/jobs", json={"prompt": "x"}).json()["id"]
    for path in (
        f"/chat/completions/chatcmpl-{job_id[4:]}",
        f"/completions/cmpl-{job_id[4:]}",
        "/chat/nothing",
    ):
        with pytest.raises(openai.NotFoundError):
            sdk.get(path, cast_to=ChatCompletion)


def test_a_wrong_key_is_an_authentication_error(locked_product: Web) -> None:
    with OpenAI(base_url=f"{locked_product.url}/v1", api_key="wrong") as sdk:
        with pytest.raises(openai.AuthenticationError) as caught:
            sdk.models.list()
        assert caught.value.code == "invalid_api_key"
        assert sdk.with_options(api_key="sesame").models.list().data


@pytest.mark.usefixtures("player")
def test_a_full_queue_is_a_rate_limit_error_that_says_when_to_come_back(
    redis_of_web: RedisServer, tmp_path: Path
) -> None:
    with (
        serving(redis_of_web.url, tmp_path, MAX_QUEUED_JOBS="4") as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as sdk,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        sdk.completions.create(model="m", prompt=["x"] * 5)
    assert caught.value.code == "queue_full"
    assert int(caught.value.response.headers["Retry-After"]) > 0
