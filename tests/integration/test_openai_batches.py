"""Batches, as OpenAI's own SDK sees them. The test plays the worker."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion
from openai.types.responses import Response as ResponseBody
from redis import Redis

from harness.waiting import eventually
from tasks import keys
from tasks.job import JobError, Status
from tests.integration.batch_harness import (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    assert_answered_once,
    completed,
    create,
    ended,
    jsonl,
    line,
    read_lines,
    until,
)
from tests.integration.openai_harness import HELLO, Calls

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.openai_fixtures"]


def keys_left(redis: Any) -> list[str]:
    """Returns the keys of batches and of jobs that are left."""
    return [key for pattern in ("*:batch_lines:*", "*:job:*", "*:log:*") for key in redis.keys(pattern)]


def test_each_line_is_a_job_of_low_priority_and_its_answer_is_the_routes(
    sdk_calls: Calls, client: httpx.Client, web_redis: Redis
) -> None:
    sdk = sdk_calls.sdk
    made = create(sdk, [line("a", max_tokens=3), line("b", prompt=["x", "y"])], metadata={"k": "v"})
    assert (made.status, made.metadata, made.completion_window) == ("validating", {"k": "v"}, "24h")
    assert made.expires_at == made.created_at + 86_400
    runs = sdk_calls.start(3)
    assert [run.claim.request.priority for run in runs] == ["low"] * 3
    jobs = [client.get(f"/v1/jobs/{run.claim.job_id}").json() for run in runs]
    assert [job["request"]["prompt"] for job in jobs] == ["a", "x", "y"]
    origins = [web_redis.hget(keys.job(run.claim.job_id), "origin") for run in runs]
    assert all(made.id in str(origin) and '"custom_id": ' in str(origin) for origin in origins)
    running = until(sdk, made.id, lambda batch: batch.status == "in_progress")
    assert running.request_counts is not None
    assert running.request_counts.total == 2
    for run in runs:
        run.complete(f"{run.claim.request.prompt}!")
    done = ended(sdk, made.id)
    assert (done.status, done.error_file_id, done.errors, done.model) == ("completed", None, None, "m")
    assert_answered_once(sdk, done, ["a", "b"])
    answers = {each["custom_id"]: each for each in read_lines(sdk, done.output_file_id)}
    assert answers["a"]["error"] is None
    assert answers["a"]["response"]["request_id"] == runs[0].claim.job_id
    body = Completion.model_validate(answers["b"]["response"]["body"])
    assert [(choice.index, choice.text) for choice in body.choices] == [(0, "x!"), (1, "y!")]
    assert done.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (9, 3, 12)
    stamps = (done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at)
    assert list(stamps) == sorted(stamp or 0 for stamp in stamps)
    assert keys_left(web_redis) == [], "the answers replace the jobs"


def test_lines_may_be_responses(sdk_calls: Calls) -> None:
    sdk = sdk_calls.sdk
    body = {"input": "hello", "instructions": "Be short.", "max_output_tokens": 3, "store": False}
    made = create(sdk, [line("a", RESPONSES, **body), line("b", RESPONSES, **body)], RESPONSES)
    for run in sdk_calls.start(2):
        run.complete("Good", " day")
    done = ended(sdk, made.id)
    assert_answered_once(sdk, done, "ab")
    for each in read_lines(sdk, done.output_file_id):
        answer = ResponseBody.model_validate(each["response"]["body"])
        assert (answer.status, answer.output_text) == ("completed", "Good day")


def test_a_line_that_fails_is_in_the_error_file(sdk_calls: Calls, client: httpx.Client) -> None:
    sdk = sdk_calls.sdk
    made = create(sdk, [line(name, url=CHAT, messages=HELLO) for name in "abcd"], CHAT)
    runs = sdk_calls.start(4)
    runs[0].complete("yes")
    runs[1].end(Status.FAILED, JobError("prompt_too_long", "5 tokens are more than 4"))
    client.post(f"/v1/jobs/{runs[2].claim.job_id}/cancel").raise_for_status()
    runs[2].end(Status.CANCELLED)
    runs[3].end(Status.FAILED, JobError("engine_error", "it broke"))
    done = ended(sdk, made.id)
    assert done.status == "completed"
    assert_answered_once(sdk, done, "abcd")
    [good] = read_lines(sdk, done.output_file_id)
    answer = ChatCompletion.model_validate(good["response"]["body"])
    assert answer.choices[0].message.content == "yes"
    bad = {each["custom_id"]: each["response"] for each in read_lines(sdk, done.error_file_id)}
    assert {name: each["status_code"] for name, each in bad.items()} == {"b": 400, "c": 409, "d": 502}
    assert bad["b"]["body"]["error"]["code"] == "context_length_exceeded"


WRONG: list[tuple[Any, str, int, str | None]] = [
    (b"{", "invalid_json_line", 2, None),
    (b"[]", "invalid_json_line", 2, None),
    (b'{"custom_id": "\xff"}', "invalid_json_line", 2, None),
    ({"method": "POST", "url": COMPLETIONS, "body": {}}, "missing_required_parameter", 2, "custom_id"),
    (line("a"), "duplicate_custom_id", 2, "custom_id"),
    ({**line("b"), "method": "GET"}, "invalid_method", 2, "method"),
    (line("b", url=CHAT), "mismatched_url", 2, "url"),
    (line("b", max_tokens=0), "invalid_request", 2, "body.max_tokens"),
    (line("b", stream=True), "invalid_request", 2, "body.stream"),
    (line("b", priority="high"), "invalid_request", 2, "body.priority"),
    ({**line("b"), "colour": "red"}, "unknown_parameter", 2, "colour"),
    ({"custom_id": "b", "method": "POST", "url": COMPLETIONS}, "invalid_request", 2, "body"),
    (line("b", prompt="x" * 1_100_000), "line_too_long", 2, None),
]


@pytest.mark.parametrize(("wrong", "code", "number", "param"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_line_fails_the_batch_with_its_number(
    sdk: OpenAI, web_redis: Redis, wrong: Any, code: str, number: int, param: str | None
) -> None:
    done = ended(sdk, create(sdk, [line("a"), wrong, b"", line("c")]).id)
    assert done.status == "failed"
    assert done.errors is not None
    assert done.errors.data is not None
    [error] = done.errors.data
    assert (error.code, error.line) == (code, number)
    assert error.message
    if param:
        assert error.param == param
    assert (done.output_file_id, done.error_file_id, keys_left(web_redis)) == (None, None, [])
    assert sdk.files.delete(done.input_file_id).deleted


@pytest.mark.parametrize(
    ("contents", "code"), [(b"\n\n", "empty_file"), (jsonl([b"{}"] * 50_001), "missing_required_parameter")]
)
def test_a_file_as_a_whole_is_checked(sdk: OpenAI, contents: bytes, code: str, web_redis: Redis) -> None:
    web_redis.ping()
    file = sdk.files.create(file=("a", contents), purpose="batch")
    made = sdk.batches.create(input_file_id=file.id, endpoint=COMPLETIONS, completion_window="24h")
    done = ended(sdk, made.id)
    assert done.errors is not None
    assert done.errors.data is not None
    assert {error.code for error in done.errors.data} == {code}
    assert len(done.errors.data) <= 100


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"endpoint": "/v1/embeddings"}, 400),
        ({"completion_window": "90m"}, 400),
        ({"completion_window": "169h"}, 400),
        ({"input_file_id": "file-none"}, 404),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, 400),
        ({"colour": "red"}, 400),
    ],
)
def test_a_wrong_batch_is_refused_at_once(
    client: httpx.Client, sdk: OpenAI, changed: dict[str, Any], status: int
) -> None:
    file = sdk.files.create(file=("a", jsonl([line("a")])), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": COMPLETIONS, "completion_window": "24h"}
    answer = client.post("/v1/batches", json={**body, **changed})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


def test_an_unknown_model_is_an_error_of_its_line_alone(sdk_calls: Calls) -> None:
    sdk = sdk_calls.sdk
    made = create(sdk, [line("a"), line("b", model="nobody"), line("c", n=5), line("d")])
    for run in sdk_calls.start(2):
        run.complete("x")
    done = ended(sdk, made.id)
    assert_answered_once(sdk, done, "abcd")
    bad = {each["custom_id"]: each["response"] for each in read_lines(sdk, done.error_file_id)}
    assert (bad["b"]["status_code"], bad["b"]["body"]["error"]["code"]) == (404, "model_not_found")
    assert (bad["c"]["status_code"], bad["c"]["body"]["error"]["param"]) == (400, "n")


def test_the_output_can_be_read_while_the_batch_runs(sdk_calls: Calls) -> None:
    sdk = sdk_calls.sdk
    made = create(sdk, [line(str(number)) for number in range(4)])
    runs = sdk_calls.start(4)
    for run in runs[:2]:
        run.complete("x")
    running = until(sdk, made.id, lambda batch: completed(batch) == 2)
    assert running.output_file_id is not None
    assert sdk.files.retrieve(running.output_file_id).status == "uploaded"
    early = sdk.files.with_raw_response.content(running.output_file_id)
    assert early.headers["X-Incomplete"] == "true"
    assert early.headers["X-Last-Line"] == "2"
    with pytest.raises(openai.ConflictError):
        sdk.files.delete(running.output_file_id)
    with pytest.raises(openai.ConflictError):
        sdk.files.delete(running.input_file_id)
    for run in runs[2:]:
        run.complete("x")
    done = ended(sdk, made.id)
    later = sdk.files.with_raw_response.content(running.output_file_id, extra_query={"offset": "2"})
    assert later.headers["X-Incomplete"] == "false"
    assert later.headers["X-Last-Line"] == "4"
    whole = sdk.files.content(running.output_file_id).text
    assert early.text + later.text == whole
    assert_answered_once(sdk, done, "0123")
    end = sdk.files.with_raw_response.content(running.output_file_id, extra_query={"offset": "4"})
    assert end.text == ""
    assert sdk.files.wait_for_processing(running.output_file_id).status == "processed"
    assert [file.id for file in sdk.files.list(purpose="batch_output")] == [running.output_file_id]
    assert sdk.files.delete(running.output_file_id).deleted


def test_a_cancelled_batch_answers_all_of_its_lines(sdk_calls: Calls, web_redis: Redis) -> None:
    sdk = sdk_calls.sdk
    made = create(sdk, [line(str(number)) for number in range(6)])
    runs = [sdk_calls.start_one(job_id) for job_id in sdk_calls.new_jobs(6)[:4]]
    runs[0].complete("x")
    until(sdk, made.id, lambda batch: completed(batch) == 1)
    assert sdk.batches.cancel(made.id).status == "cancelling"
    assert sdk.batches.cancel(made.id).status in ("cancelling", "cancelled")
    runs[1].complete("x")  # It was done before its worker heard of it.
    for run in runs[2:]:
        eventually(lambda run=run: run.renew() is not None)  # type: ignore[misc]
        run.end(Status.CANCELLED)
    done = ended(sdk, made.id)
    assert done.status == "cancelled"
    assert done.cancelling_at is not None
    assert done.cancelled_at is not None
    assert_answered_once(sdk, done, "012345")
    assert len(read_lines(sdk, done.output_file_id)) == 2
    reasons = read_lines(sdk, done.error_file_id)
    assert {each["error"]["code"] for each in reasons} == {"batch_cancelled"}
    assert keys_left(web_redis) == []
    failed = ended(sdk, create(sdk, [b"{"]).id)
    with pytest.raises(openai.ConflictError):
        sdk.batches.cancel(failed.id)


def test_an_idempotency_key_leads_to_the_same_batch(sdk: OpenAI, web_redis: Redis) -> None:
    web_redis.ping()
    file = sdk.files.create(file=("a", jsonl([line("a")])), purpose="batch")

    def make(endpoint: Any) -> str:
        return sdk.batches.create(
            input_file_id=file.id,
            endpoint=endpoint,
            completion_window="24h",
            extra_headers={"Idempotency-Key": "k"},
        ).id

    assert make(COMPLETIONS) == make(COMPLETIONS)
    assert len(list(sdk.batches.list())) == 1
    with pytest.raises(openai.BadRequestError):
        make(CHAT)


def test_lists_have_pages(sdk: OpenAI, web_redis: Redis) -> None:
    web_redis.ping()
    made = [create(sdk, [b"{"]).id for _ in range(5)]
    assert [batch.id for batch in sdk.batches.list(limit=2)] == made[::-1]
    assert sdk.batches.list(limit=2, after=made[0]).data == []


def test_a_job_that_somebody_deleted_is_an_error_of_its_line(sdk_calls: Calls, web_redis: Redis) -> None:
    sdk = sdk_calls.sdk
    made = create(sdk, [line("a"), line("b")])
    runs = sdk_calls.start(2)
    web_redis.delete(keys.job(runs[0].claim.job_id))
    runs[1].complete("x")
    done = ended(sdk, made.id)
    assert_answered_once(sdk, done, "ab")
    assert [each["error"]["code"] for each in read_lines(sdk, done.error_file_id)] == ["job_lost"]


def test_a_batch_and_its_files_are_forgotten(sdk_calls: Calls, web_redis: Redis) -> None:
    sdk = sdk_calls.sdk
    made = create(sdk, [line("a")], output_expires_after={"anchor": "created_at", "seconds": 3600})
    [run] = sdk_calls.start()
    run.complete("x")
    done = ended(sdk, made.id)
    assert done.output_file_id is not None
    output = sdk.files.retrieve(done.output_file_id)
    assert output.expires_at == pytest.approx(made.created_at + 3600, abs=2)
    for key in ("file_expiry", "batch_expiry"):
        for member in web_redis.zrange(keys.PREFIX + key, 0, -1):
            web_redis.zadd(keys.PREFIX + key, {str(member): 0})
    eventually(lambda: not [key for key in web_redis.keys("*") if "file" in key or "batch" in key])
    assert web_redis.hgetall(keys.PREFIX + "bytes") == {}
