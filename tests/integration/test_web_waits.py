"""Submits and reads that wait for a job's end, on a real gunicorn."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tests.integration.web_harness import Player, Server, assert_problem, submit

pytest_plugins = ["tests.integration.web_fixtures"]


def test_prefer_wait_holds_the_reply_until_the_job_has_ended(
    client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    with ThreadPoolExecutor() as pool:
        held = pool.submit(client.post, "/v1/jobs", json={"prompt": "x"}, headers={"Prefer": "wait=60"})
        eventually(lambda: web_redis.pubsub_channels())
        job_id = web_redis.zrange(keys.offered("echo:m"), 0, -1)[0]
        run = player.start(str(job_id))
        run.write("a", "b")
        assert not held.done()
        run.complete("c")
        answer = held.result(TIMEOUT_SECONDS)
    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=60"
    assert (answer.json()["status"], answer.json()["output"][0]["text"]) == ("completed", "abc")
    eventually(lambda: not web_redis.pubsub_channels())


def test_prefer_wait_gives_up_in_time(client: httpx.Client) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "x"}, headers={"Prefer": "respond-async, wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["Preference-Applied"] == "wait=1"
    answer = client.post("/v1/jobs", json={"prompt": "x"}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers


@pytest.mark.parametrize("preference", ["wait=61", "wait=-1", "wait=x", "wait", "wait=1.5"])
def test_a_bad_preference_is_422(client: httpx.Client, preference: str) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "x"}, headers={"Prefer": preference})
    assert_problem(answer, 422, "Prefer")
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_long_poll_ends_with_the_job(client: httpx.Client, player: Player, web_redis: Redis) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    with ThreadPoolExecutor() as pool:
        held = pool.submit(client.get, f"/v1/jobs/{job_id}?wait=60")
        eventually(lambda: web_redis.pubsub_channels())
        run.complete("x")
        assert held.result(TIMEOUT_SECONDS).json()["status"] == "completed"
    assert client.get(f"/v1/jobs/{job_id}?wait=60").json()["status"] == "completed"


def test_a_long_poll_ends_when_its_client_leaves(
    server: Server, client: httpx.Client, web_redis: Redis
) -> None:
    job_id = submit(client)
    with socket.create_connection(server.address) as leaver:
        leaver.sendall(f"GET /v1/jobs/{job_id}?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        eventually(lambda: web_redis.pubsub_channels())
    eventually(lambda: not web_redis.pubsub_channels())


@pytest.mark.parametrize("wait", ["61", "-1", "x", "nan", "inf", ""])
def test_a_bad_wait_is_422(client: httpx.Client, wait: str) -> None:
    assert_problem(client.get(f"/v1/jobs/{submit(client)}?wait={wait}"), 422, "wait")
