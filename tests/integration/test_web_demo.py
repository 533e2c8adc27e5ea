"""The demo's own routes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tasks.job import JobError, Status
from tests.integration.web_harness import Player, Server, assert_problem
from web.calls import MAX_IDS_IN_HEADER
from web.routes.demo import MAX_PROMPTS

pytest_plugins = ["tests.integration.web_fixtures"]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as opened:
        yield opened


def waiting_jobs(redis: Redis, count: int) -> list[str]:
    """Waits for `count` submitted jobs, and returns their ids in order."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [str(job_id) for job_id in redis.zrange(keys.owner_jobs("anonymous"), 0, -1)]
        return len(found) == count

    eventually(look)
    return found


def sent(pool: ThreadPoolExecutor, client: httpx.Client, path: str, **body: Any) -> Future[httpx.Response]:
    return pool.submit(client.post, path, json=body)


def test_one_prompt_gets_its_continuation_greedily(
    client: httpx.Client, player: Player, web_redis: Redis, pool: ThreadPoolExecutor
) -> None:
    reply = sent(pool, client, "/basic_generate", prompt="once")
    [job_id] = waiting_jobs(web_redis, 1)
    player.start(job_id).complete(" upon", " a time")
    answer = reply.result(TIMEOUT_SECONDS)
    assert answer.json() == {"generated_text": " upon a time"}
    assert answer.headers["X-Job-ID"] == job_id
    assert client.get(f"/v1/jobs/{job_id}").json()["request"]["temperature"] == 0


def test_several_prompts_are_several_jobs_answered_in_their_order(
    client: httpx.Client, player: Player, web_redis: Redis, pool: ThreadPoolExecutor
) -> None:
    reply = sent(pool, client, "/generate", prompts=["a", "b", "c"], max_tokens=3, temperature=0.5)
    ids = waiting_jobs(web_redis, 3)
    for job_id in reversed(ids):
        run = player.start(job_id)
        assert (run.claim.request.max_tokens, run.claim.request.temperature) == (3, 0.5)
        run.complete(f"after {run.claim.request.prompt}")
    answer = reply.result(TIMEOUT_SECONDS)
    assert answer.json() == {"generated_texts": ["after a", "after b", "after c"]}
    assert answer.headers["X-Job-ID"] == ",".join(ids)


def test_the_headers_of_many_prompts_stay_within_what_proxies_take(
    client: httpx.Client, web_redis: Redis, pool: ThreadPoolExecutor
) -> None:
    """nginx answers 502 if an answer's headers exceed a page of memory."""
    reply = sent(pool, client, "/generate", prompts=["x"] * MAX_PROMPTS)
    ids = waiting_jobs(web_redis, MAX_PROMPTS)
    for job_id in ids:
        client.post(f"/v1/jobs/{job_id}/cancel")
    answer = reply.result(TIMEOUT_SECONDS)
    assert_problem(answer, 409)
    assert answer.headers["X-Job-ID"].split(",") == answer.json()["job_ids"][:MAX_IDS_IN_HEADER]
    assert sorted(answer.json()["job_ids"]) == sorted(ids)
    assert sum(len(name) + len(value) + 4 for name, value in answer.headers.raw) < 4096


def test_the_texts_of_many_prompts_come_with_their_jobs(
    client: httpx.Client, player: Player, web_redis: Redis, pool: ThreadPoolExecutor
) -> None:
    count = MAX_IDS_IN_HEADER + 1
    reply = sent(pool, client, "/generate", prompts=["x"] * count)
    ids = waiting_jobs(web_redis, count)
    for job_id in ids:
        player.start(job_id).complete("y")
    answer = reply.result(TIMEOUT_SECONDS)
    assert answer.json() == {"generated_texts": ["y"] * count, "job_ids": ids}
    assert answer.headers["X-Job-ID"].split(",") == ids[:MAX_IDS_IN_HEADER]


def test_a_stream_of_tokens_ends_with_done(
    client: httpx.Client, player: Player, web_redis: Redis, pool: ThreadPoolExecutor
) -> None:
    reply = sent(pool, client, "/generate_stream", prompt="once")
    [job_id] = waiting_jobs(web_redis, 1)
    player.start(job_id).complete(" a", "", ' "b"\n')
    answer = reply.result(TIMEOUT_SECONDS)
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["X-Job-ID"] == job_id
    lines = [line for line in answer.text.splitlines() if line and not line.startswith(":")]
    assert lines == ['data: {"token":" a"}', 'data: {"token":" \\"b\\"\\n"}', "data: [DONE]"]


def test_a_stream_whose_job_fails_says_so_and_is_not_done(
    client: httpx.Client, player: Player, web_redis: Redis, pool: ThreadPoolExecutor
) -> None:
    reply = sent(pool, client, "/generate_stream", prompt="once")
    [job_id] = waiting_jobs(web_redis, 1)
    player.start(job_id).end(Status.FAILED, JobError("engine_error", "it broke"))
    text = reply.result(TIMEOUT_SECONDS).text
    data = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert data == [{"error": {"code": "engine_error", "message": "it broke"}}]


@pytest.mark.parametrize(
    ("code", "status"),
    [("prompt_too_long", 422), ("timeout", 504), ("engine_error", 502), ("poison", 502)],
)
def test_a_failed_job_is_an_http_error_with_its_code(
    client: httpx.Client,
    player: Player,
    web_redis: Redis,
    pool: ThreadPoolExecutor,
    code: str,
    status: int,
) -> None:
    reply = sent(pool, client, "/generate", prompts=["a", "b"])
    first, second = waiting_jobs(web_redis, 2)
    player.start(first).complete("x")
    player.start(second).end(Status.FAILED, JobError(code, "in words"))
    answer = reply.result(TIMEOUT_SECONDS)
    assert_problem(answer, status)
    assert answer.json()["code"] == code
    assert "in words" in answer.json()["detail"]
    assert answer.headers["X-Job-ID"] == f"{first},{second}"


def test_a_job_that_was_cancelled_is_a_conflict(
    client: httpx.Client, web_redis: Redis, pool: ThreadPoolExecutor
) -> None:
    reply = sent(pool, client, "/basic_generate", prompt="a")
    [job_id] = waiting_jobs(web_redis, 1)
    eventually(web_redis.pubsub_channels)
    client.post(f"/v1/jobs/{job_id}/cancel")
    assert_problem(reply.result(TIMEOUT_SECONDS), 409)


@pytest.mark.parametrize("path", ["/basic_generate", "/generate", "/generate_stream"])
def test_a_client_that_leaves_cancels_its_jobs(
    server: Server, client: httpx.Client, web_redis: Redis, path: str
) -> None:
    body = json.dumps({"prompts": ["a", "b"]} if path == "/generate" else {"prompt": "a"})
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    with socket.create_connection(server.address) as leaver:
        leaver.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        ids = waiting_jobs(web_redis, 2 if path == "/generate" else 1)
        eventually(web_redis.pubsub_channels)
    for job_id in ids:
        job = client.get(f"/v1/jobs/{job_id}?wait=30").json()
        assert job["status"] == "cancelled"


def test_an_idempotency_key_belongs_to_one_body(client: httpx.Client, web_redis: Redis) -> None:
    headers = {"Idempotency-Key": "k"}
    for key in ("k", "k#1"):  # Neither key is used by another request.
        client.post("/v1/jobs", json={"prompt": "other"}, headers={"Idempotency-Key": key})
    for path, body in (("/generate", {"prompts": ["a", "b"]}), ("/basic_generate", {"prompt": "a"})):
        assert_problem(client.post(path, json=body, headers=headers), 422, "Idempotency-Key")
    assert len(waiting_jobs(web_redis, 2)) == 2


def test_an_idempotency_key_finds_the_same_jobs(
    client: httpx.Client, player: Player, web_redis: Redis, pool: ThreadPoolExecutor
) -> None:
    headers = {"Idempotency-Key": "k"}
    replies = [
        pool.submit(client.post, "/generate", json={"prompts": ["a", "b"]}, headers=headers) for _ in "12"
    ]
    for job_id in waiting_jobs(web_redis, 2):
        player.start(job_id).complete("x")
    answers = [reply.result(TIMEOUT_SECONDS) for reply in replies]
    assert answers[0].headers["X-Job-ID"] == answers[1].headers["X-Job-ID"]
    assert answers[0].json() == answers[1].json() == {"generated_texts": ["x", "x"]}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/basic_generate", {}, "prompt"),
        ("/basic_generate", {"prompt": ""}, "prompt"),
        ("/basic_generate", {"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ("/basic_generate", {"prompt": "x", "top_p": 1}, "top_p"),
        ("/generate", {"prompts": []}, "prompts"),
        ("/generate", {"prompts": ["x", ""]}, "prompts.1"),
        ("/generate", {"prompts": "x"}, "prompts"),
        ("/generate_stream", {"prompt": "x", "temperature": 3}, "temperature"),
        ("/generate_vllm", {"prompts": ["x"], "max_tokens": "1"}, "max_tokens"),
        ("/generate", [], ""),
    ],
)
def test_a_bad_body_is_422(client: httpx.Client, path: str, body: Any, field: str) -> None:
    assert_problem(client.post(path, json=body), 422, field)


def test_the_vllm_route_waits_for_a_vllm_worker(
    client: httpx.Client, player: Player, web_redis: Redis, pool: ThreadPoolExecutor
) -> None:
    answer = client.post("/generate_vllm", json={"prompts": ["x"]})
    assert answer.json()["code"] == "model_not_available"
    assert_problem(answer, 503)
    assert "Retry-After" in answer.headers
    player.info = replace(player.info, id="gpu@test", model="big", engine="vllm")
    player.leases.heartbeat(player.info)
    reply = sent(pool, client, "/generate_vllm", prompts=["x"])
    [job_id] = waiting_jobs(web_redis, 1)
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["model"], job["request"]["engine"]) == ("big", "vllm")
    player.start(job_id).complete("y")
    assert reply.result(TIMEOUT_SECONDS).json() == {"generated_texts": ["y"]}
