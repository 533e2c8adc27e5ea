"""Completions and chat completions, as OpenAI's own SDK sees them."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks.job import FinishReason, Status
from tasks.log import TokenEntry
from tests.integration.openai_harness import HELLO, Calls
from web.abandoned import RESUME_SECONDS

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.openai_fixtures"]


def test_a_chat_completion_is_a_job_of_the_same_queue(sdk_calls: Calls, client: httpx.Client) -> None:
    reply = sdk_calls.call(
        sdk_calls.sdk.chat.completions.create,
        model="m",
        messages=HELLO,
        max_completion_tokens=5,
        temperature=0.5,
        seed=3,
        stop="x",
        user="ada",
        metadata={"k": "v"},
        extra_body={"top_k": 4, "priority": "high"},
    )
    [run] = sdk_calls.start()
    request = run.claim.request
    assert (request.max_tokens, request.temperature, request.seed, request.stop) == (5, 0.5, 3, ["x"])
    assert (request.top_k, request.priority) == (4, "high")
    run.complete("Good", " day")
    answer = reply.result(TIMEOUT_SECONDS)
    assert isinstance(answer, ChatCompletion)
    assert answer.choices[0].message.content == "Good day"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        3,
        2,
        5,
    )
    job = client.get(f"/v1/jobs/{run.claim.job_id}").json()
    assert job["metadata"] == {"k": "v", "user": "ada"}
    assert answer.id == f"chatcmpl-{run.claim.job_id.removeprefix('job_')}"


def test_several_choices_of_several_prompts_are_one_completion(sdk_calls: Calls) -> None:
    reply = sdk_calls.call(
        sdk_calls.sdk.completions.create, model="m", prompt=["a", "b"], n=2, max_tokens=3, logprobs=None
    )
    runs = sdk_calls.start(2)
    for run in reversed(runs):
        text = run.claim.request.prompt
        run.write(f"{text}0", choice=0, finish_reason=FinishReason.LENGTH)
        run.write(f"{text}1", choice=1, finish_reason=FinishReason.STOP)
        run.end(Status.COMPLETED)
    answer = reply.result(TIMEOUT_SECONDS)
    assert isinstance(answer, Completion)
    assert [(one.index, one.text, one.finish_reason) for one in answer.choices] == [
        (0, "a0", "length"),
        (1, "a1", "stop"),
        (2, "b0", "length"),
        (3, "b1", "stop"),
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 4)


def test_a_prompt_may_be_token_ids(sdk_calls: Calls) -> None:
    reply = sdk_calls.call(sdk_calls.sdk.completions.create, model="m", prompt=[5, 6])
    [run] = sdk_calls.start()
    assert run.claim.request.prompt_token_ids == [5, 6]
    assert run.claim.request.max_tokens == 16, "OpenAI's default"
    run.complete("x")
    assert reply.result(TIMEOUT_SECONDS).choices[0].text == "x"


def test_log_probabilities_have_the_shape_of_each_route(sdk_calls: Calls) -> None:
    logged: Any = [["é", -0.5, [["é", -0.5], ["x", -1.5]]], ["\ufffd", -0.1, [["\ufffd", -0.1]]]]

    def play(request_logprobs: int) -> None:
        [run] = sdk_calls.start()
        assert run.claim.request.logprobs == request_logprobs
        run._flush([TokenEntry(0, (7, 8), "é", FinishReason.STOP, logged)])
        run.end(Status.COMPLETED)

    chat = sdk_calls.call(
        sdk_calls.sdk.chat.completions.create, model="m", messages=HELLO, logprobs=True, top_logprobs=2
    )
    play(2)
    found = chat.result(TIMEOUT_SECONDS).choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert [(one.token, one.bytes, one.logprob) for one in found.content] == [
        ("é", [195, 169], -0.5),
        ("\ufffd", None, -0.1),
    ]
    assert [top.token for top in found.content[0].top_logprobs] == ["é", "x"]

    text = sdk_calls.call(sdk_calls.sdk.completions.create, model="m", prompt="x", logprobs=1)
    play(1)
    of_text = text.result(TIMEOUT_SECONDS).choices[0].logprobs
    assert of_text is not None
    assert (of_text.tokens, of_text.text_offset) == (["é", "\ufffd"], [0, 1])
    assert of_text.top_logprobs == [{"é": -0.5, "x": -1.5}, {"\ufffd": -0.1}]


def test_a_client_that_leaves_a_synchronous_call_cancels_its_job(sdk_calls: Calls) -> None:
    impatient = sdk_calls.sdk.with_options(timeout=1)
    reply = sdk_calls.call(impatient.chat.completions.create, model="m", messages=HELLO)
    [run] = sdk_calls.start()
    assert isinstance(reply.exception(TIMEOUT_SECONDS), openai.APITimeoutError)
    eventually(lambda: run.renew() is not None)


def test_a_client_may_repeat_a_call_with_its_key_after_its_time_was_up(sdk_calls: Calls) -> None:
    create, key = sdk_calls.sdk.completions.create, {"Idempotency-Key": "again"}
    impatient = sdk_calls.sdk.with_options(timeout=1).completions.create
    first = sdk_calls.call(impatient, model="m", prompt="x", extra_headers=key)
    [run] = sdk_calls.start()
    assert isinstance(first.exception(TIMEOUT_SECONDS), openai.APITimeoutError)
    again = sdk_calls.call(create, model="m", prompt="x", extra_headers=key)
    for _ in range(int(RESUME_SECONDS) + 1):  # Longer than a client has for coming back.
        with pytest.raises(TimeoutError):
            again.result(1)
        assert run.renew() is None, "the job was cancelled"
    run.complete("y")
    made = again.result(TIMEOUT_SECONDS)
    assert made.choices[0].text == "y"
    assert made._request_id == run.claim.job_id


def test_a_call_with_a_key_is_cancelled_when_the_last_client_has_left(
    sdk_calls: Calls, client: httpx.Client
) -> None:
    key = {"Idempotency-Key": "twice"}
    for seconds in (
        1.0,
        RESUME_SECONDS + 2,
    ):  # The second one waits beyond the first one's time.
        create = sdk_calls.sdk.with_options(timeout=seconds).completions.create
        call = sdk_calls.call(create, model="m", prompt="x", extra_headers=key)
        assert isinstance(call.exception(TIMEOUT_SECONDS), openai.APITimeoutError)
    [job_id] = sdk_calls.new_jobs()
    eventually(lambda: client.get(f"/v1/jobs/{job_id}").json()["status"] == "cancelled")


def test_a_stream_may_be_taken_up_before_its_first_event(sdk_calls: Calls, client: httpx.Client) -> None:
    reply = sdk_calls.call(sdk_calls.sdk.completions.create, model="m", prompt="x")
    [run] = sdk_calls.start()
    run.complete("y")
    url = f"/v1/completions/{reply.result(TIMEOUT_SECONDS).id}"
    whole = client.get(url, params={"stream": "true"})
    assert whole.headers["Content-Type"].startswith("text/event-stream")
    assert client.get(url, params={"after": 0}).text == whole.text
    assert client.get(url, headers={"Last-Event-ID": "0"}).text == whole.text


def test_a_stored_completion_is_read_and_deleted(sdk_calls: Calls, client: httpx.Client) -> None:
    chat = sdk_calls.sdk.chat.completions
    reply = sdk_calls.call(chat.create, model="m", messages=HELLO)
    [run] = sdk_calls.start()
    run.complete("x")
    made = reply.result(TIMEOUT_SECONDS)
    assert chat.retrieve(made.id) == made
    with pytest.raises(openai.NotFoundError):
        sdk_calls.sdk.get(f"/completions/{made.id}", cast_to=Completion)
    assert chat.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError, match=f"there is no chat completion {made.id}"):
        chat.retrieve(made.id)
    assert client.get(f"/v1/jobs/{run.claim.job_id}").status_code == 404
