"""The submit route on a real gunicorn: bodies, idempotency keys, and refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.integration.web_harness import Player, RedisServer, Server, assert_problem, serving

pytest_plugins = ["tests.integration.web_fixtures"]
JSON = {"Content-Type": "application/json"}


def test_a_submitted_job_is_accepted_with_its_place_and_urls(server: Server, client: httpx.Client) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "once", "metadata": {"a": "b"}})
    assert answer.status_code == 202
    job = answer.json()
    own = f"{server.url}/v1/jobs/{job['id']}"
    assert answer.headers["Location"] == own
    assert job["urls"] == {
        "self": own,
        "cancel": f"{own}/cancel",
        "events": f"{own}/events",
        "stream": f"{server.ws_url}/v1/jobs/{job['id']}/stream",
    }
    assert (job["object"], job["status"], job["attempt"]) == ("job", "queued", 0)
    assert (job["queue_position"], job["reason"]) == (0, "no worker serves this model at present")
    assert job["metadata"] == {"a": "b"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", job["created_at"])
    assert client.get(own).json() == job


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["prompt"]),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, ["prompt"]),
        ({"messages": [{"role": "wizard", "content": "x"}]}, ["messages.0.role"]),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, ["messages.0.content.0.text"]),
        ({"prompt": ""}, ["prompt"]),
        ({"prompt": "x", "nonsense": 1, "n": 9}, ["n", "nonsense"]),
        ({"prompt": "x", "max_tokens": "64"}, ["max_tokens"]),
        ({"prompt": "x", "temperature": 1e999}, ["temperature"]),
        ({"prompt": "x", "model": "never-heard-of"}, ["model"]),
        ([], [""]),
        ("x", [""]),
    ],
)
def test_a_bad_body_names_each_bad_field(client: httpx.Client, body: Any, fields: list[str]) -> None:
    text = json.dumps(body).replace("Infinity", "1e999")
    answer = client.post("/v1/jobs", content=text, headers=JSON)
    assert_problem(answer, 422, *fields)
    assert not answer.json()["detail"].startswith(":")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt": NaN}',
        b'{"prompt": "x", "temperature": Infinity}',
        b'{"prompt": "x", "temperature": -Infinity}',
        b'{"prompt": "x", "prompt": "y"}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud83d"}',
        b'{"\\udc00": "x"}',
        b"[" * 100_000,
        b'{"seed": ' + b"1" * 5000 + b"}",
        b'\xef\xbb\xbf{"prompt": "x"}',
    ],
)
def test_a_body_that_is_not_json_is_400(client: httpx.Client, body: bytes) -> None:
    assert_problem(client.post("/v1/jobs", content=body, headers=JSON), 400)


def test_a_surrogate_pair_at_any_depth_is_400_or_422(client: httpx.Client) -> None:
    """The limit of the depth depends on the free stack, and differs between the two checks of the body."""
    for depth in range(900, 1001):
        nested = b'{"prompt": %s"\\ud83d\\ude00"%s}' % (b"[" * depth, b"]" * depth)
        answer = client.post("/v1/jobs", content=nested, headers=JSON)
        assert answer.status_code in (400, 422), f"{depth} deep: {answer.text}"


def test_a_whole_surrogate_pair_is_fine(client: httpx.Client) -> None:
    answer = client.post("/v1/jobs", content=b'{"prompt": "\\ud83d\\ude00"}', headers=JSON)
    assert answer.json()["request"]["prompt"] == "\U0001f600"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_content_type_is_415(client: httpx.Client, content_type: str) -> None:
    answer = client.post("/v1/jobs", content=b'{"prompt": "x"}', headers={"Content-Type": content_type})
    assert_problem(answer, 415)


def test_a_body_beyond_a_mebibyte_is_413(client: httpx.Client) -> None:
    prompt = "x" * 1024 * 1024
    answer = client.post("/v1/jobs", json={"prompt": prompt})
    assert_problem(answer, 413)
    assert answer.json()["detail"] == "the body is longer than 1048576 bytes"

    def chunks() -> Any:
        yield b'{"prompt": "'
        for _ in range(20):
            yield b"x" * 65536
        yield b'"}'

    assert_problem(client.post("/v1/jobs", content=chunks(), headers=JSON), 413)
    assert client.post("/v1/jobs", json={"prompt": prompt[:-100]}).status_code == 202


def test_the_same_idempotency_key_brings_the_same_job(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "a-key"}
    first = client.post("/v1/jobs", json={"prompt": "x"}, headers=headers)
    again = client.post("/v1/jobs", json={"prompt": "x", "max_tokens": 64}, headers=headers)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["id"] == first.json()["id"]
    other = client.post("/v1/jobs", json={"prompt": "y"}, headers=headers)
    assert_problem(other, 422, "Idempotency-Key")
    assert client.get("/v1/jobs").json()["data"][0]["id"] == first.json()["id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "\u00e9"])
def test_a_bad_idempotency_key_is_422(client: httpx.Client, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode())]
    assert_problem(client.post("/v1/jobs", json={"prompt": "x"}, headers=headers), 422, "Idempotency-Key")


def test_a_full_queue_is_429_with_retry_after(
    redis_of_web: RedisServer, web_redis: Redis, tmp_path: Path
) -> None:
    assert web_redis.ping()
    with serving(redis_of_web.url, tmp_path, MAX_QUEUED_JOBS="1") as server:
        answers = [httpx.post(f"{server.url}/v1/jobs", json={"prompt": "x"}) for _ in range(2)]
    assert answers[0].status_code == 202
    answer = answers[1]
    assert_problem(answer, 429)
    assert int(answer.headers["Retry-After"]) >= 1


def test_more_choices_than_the_widest_worker_has_slots_are_refused(
    client: httpx.Client, player: Player
) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "x", "n": player.info.slots + 1})
    assert_problem(answer, 422, "n")
