"""What a client is told when Redis is lost: the job is stored, is not stored, or may be stored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tests.integration.web_harness import Player, RedisServer, assert_problem, serving

pytest_plugins = ["tests.integration.web_fixtures"]

BODY = {"prompt": "x", "max_tokens": 1}


ROUTES: dict[str, dict[str, Any]] = {
    "/v1/jobs": BODY,
    "/basic_generate": {"prompt": "x"},
    "/generate": {"prompts": ["x", "y"]},
    "/generate_stream": {"prompt": "x"},
}


OPENAI_ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/responses": {"input": "x"},
}


@pytest.fixture(autouse=True)
def _nothing_stored(redis_of_web: RedisServer) -> None:
    with Redis.from_url(redis_of_web.url) as redis:
        redis.flushall()


def jobs_in(server: RedisServer) -> int:
    with Redis.from_url(server.url) as redis:
        return len(redis.keys(keys.job("*")))


def post(url: str, path: str = "/v1/jobs", body: dict[str, Any] = BODY, **headers: str) -> httpx.Response:
    return httpx.post(url + path, json=body, headers=headers, timeout=TIMEOUT_SECONDS)


@pytest.mark.parametrize(("path", "body"), ROUTES.items())
def test_a_submit_that_never_reached_redis_was_not_accepted(
    redis_of_web: RedisServer, tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    redis_of_web.kill()
    try:
        with serving(redis_of_web.url, tmp_path) as server:
            answer = post(server.url, path, body)
    finally:
        redis_of_web.start()
    assert_problem(answer, 503)
    assert answer.json()["code"] == "unavailable"
    assert answer.json()["detail"].endswith("nothing was accepted")
    assert int(answer.headers["Retry-After"]) >= 1
    assert jobs_in(redis_of_web) == 0


@pytest.mark.parametrize(("path", "body"), OPENAI_ROUTES.items())
def test_openais_clients_are_told_the_same(
    redis_of_web: RedisServer, tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    redis_of_web.kill()
    try:
        with serving(redis_of_web.url, tmp_path) as server:
            answer = post(server.url, path, body)
    finally:
        redis_of_web.start()
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (503, "unavailable", "server_error")
    assert error["message"].endswith("nothing was accepted")
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(("path", "body"), OPENAI_ROUTES.items())
def test_an_accepted_stream_is_never_called_refused(
    redis_of_web: RedisServer, tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    """Redis dies before the first token. The answer says where to ask for the job."""
    with serving(redis_of_web.url, tmp_path) as server, ThreadPoolExecutor() as threads:
        coming = threads.submit(post, server.url, path, {**body, "stream": True})
        eventually(lambda: jobs_in(redis_of_web) == 1)
        redis_of_web.kill()
        try:
            answer = coming.result(TIMEOUT_SECONDS)
        finally:
            redis_of_web.start()
        assert answer.status_code == 202
        assert answer.headers["Location"] == answer.json()["jobs"][0]
        assert httpx.get(answer.headers["Location"]).json()["id"] == answer.headers["X-Job-ID"]


def test_an_accepted_job_is_never_called_refused(redis_of_web: RedisServer, tmp_path: Path) -> None:
    """Redis dies while a call waits for the job's end. The answer shows the job as it was read last."""
    with serving(redis_of_web.url, tmp_path) as server, ThreadPoolExecutor() as threads:
        coming = threads.submit(post, server.url, Prefer="wait=2")
        eventually(lambda: jobs_in(redis_of_web) == 1)
        redis_of_web.kill()
        try:
            answer = coming.result(TIMEOUT_SECONDS)
        finally:
            redis_of_web.start()
        assert answer.status_code == 202
        assert answer.json()["status"] == "queued"
        assert answer.headers["Location"] == answer.json()["urls"]["self"]
        assert httpx.get(answer.headers["Location"]).json()["id"] == answer.json()["id"]


def test_a_demo_route_waits_until_redis_is_back(
    redis_of_web: RedisServer, player: Player, tmp_path: Path
) -> None:
    with serving(redis_of_web.url, tmp_path) as server, ThreadPoolExecutor() as threads:
        coming = threads.submit(post, server.url, "/generate", {"prompts": ["x", "y"]})
        eventually(lambda: jobs_in(redis_of_web) == 2)
        redis_of_web.kill()
        redis_of_web.start()
        for job in httpx.get(f"{server.url}/v1/jobs").json()["data"]:
            player.start(job["id"]).complete("z")
        assert coming.result(TIMEOUT_SECONDS).json() == {"generated_texts": ["z", "z"]}
