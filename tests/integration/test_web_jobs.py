"""The other job routes on a real gunicorn, and health."""

from __future__ import annotations

import json
import socket

import httpx
import pytest
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tasks.job import JobError, Status
from tests.integration.web_harness import Player, RedisServer, Server, assert_problem, submit

pytest_plugins = ["tests.integration.web_fixtures"]


def test_unknown_routes_and_methods_are_problems(client: httpx.Client) -> None:
    assert_problem(client.get("/v2/jobs"), 404)
    assert_problem(client.post("/nowhere"), 404)
    answer = client.get("/v1/jobs/")
    assert_problem(answer, 404)
    assert answer.json()["detail"] == "there is no /v1/jobs/; /docs lists all routes"
    answer = client.put("/v1/jobs")
    assert_problem(answer, 405)
    methods = ", ".join(sorted(answer.headers["Allow"].split(", ")))
    assert answer.json()["detail"] == f"/v1/jobs does not take PUT, only {methods}"
    assert set(answer.headers["Allow"].split(", ")) >= {"GET", "POST"}


@pytest.mark.parametrize("path", ["", "/retry", "/cancel", "/ticket", "/events", "DELETE"])
def test_an_unknown_job_is_404(client: httpx.Client, path: str) -> None:
    if path == "DELETE":
        answer = client.delete("/v1/jobs/job_nope")
    elif path in ("", "/events"):
        answer = client.get(f"/v1/jobs/job_nope{path}")
    else:
        answer = client.post(f"/v1/jobs/job_nope{path}")
    assert_problem(answer, 404)


def test_a_waiting_job_is_cancelled_at_once(client: httpx.Client) -> None:
    job_id = submit(client)
    answer = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    again = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (again.status_code, again.json()) == (200, answer.json())


def test_a_running_job_is_told_to_cancel_and_keeps_its_output(client: httpx.Client, player: Player) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    run.write("so far")
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "in_progress"
    assert run.renew() == "cancel"
    run.end(Status.CANCELLED)
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert job["output"] == [{"index": 0, "text": "so far", "finish_reason": "cancelled"}]


def test_only_an_ended_job_is_deleted(client: httpx.Client, player: Player) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    assert_problem(client.delete(f"/v1/jobs/{job_id}"), 409)
    run.complete("x")
    answer = client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert_problem(client.get(f"/v1/jobs/{job_id}"), 404)


def test_only_a_job_that_did_not_complete_is_retried(client: httpx.Client, player: Player) -> None:
    job_id = submit(client, "again", seed=5)
    run = player.start(job_id)
    assert_problem(client.post(f"/v1/jobs/{job_id}/retry"), 409)
    run.end(Status.FAILED, JobError("engine_error", "it broke"))
    assert client.get(f"/v1/jobs/{job_id}").json()["error"] == {"code": "engine_error", "message": "it broke"}
    headers = {"Idempotency-Key": "retry"}
    answer = client.post(f"/v1/jobs/{job_id}/retry", headers=headers)
    assert answer.status_code == 202
    new = answer.json()
    assert answer.headers["Location"] == new["urls"]["self"]
    assert new["id"] != job_id
    assert new["request"] == client.get(f"/v1/jobs/{job_id}").json()["request"]
    assert client.post(f"/v1/jobs/{job_id}/retry", headers=headers).status_code == 200
    player.start(new["id"]).complete("x")
    assert_problem(client.post(f"/v1/jobs/{new['id']}/retry"), 409)


def test_without_redis_everything_is_503_and_then_works_again(
    redis_of_web: RedisServer, client: httpx.Client
) -> None:
    job_id = submit(client)
    redis_of_web.kill()
    try:
        for answer in (
            client.post("/v1/jobs", json={"prompt": "x"}),
            client.get(f"/v1/jobs/{job_id}"),
            client.get(f"/v1/jobs/{job_id}/events"),
            client.get("/health/web"),
            client.get("/health/ready"),
            client.post("/generate", json={"prompts": ["x"]}),
        ):
            assert_problem(answer, 503)
            assert int(answer.headers["Retry-After"]) >= 1
        assert client.get("/health/live").status_code == 200
    finally:
        redis_of_web.start()
    assert client.get("/health/web").status_code == 200
    assert client.get(f"/v1/jobs/{job_id}").status_code == 200


def test_health_lists_jobs_and_workers(client: httpx.Client, player: Player) -> None:
    submit(client)
    health = client.get("/health").json()
    assert health["jobs"]["queued"] == 1
    assert set(health["jobs"]) == {status.value for status in Status}
    assert health["workers"] == [
        {
            "id": player.info.id,
            "model": "m",
            "engine": "echo",
            "slots": 4,
            "running": 0,
            "tokens_per_second": 0,
            "max_model_len": None,
        }
    ]
    assert client.get("/health/ready").status_code == 200


def test_not_ready_without_a_worker(client: httpx.Client) -> None:
    answer = client.get("/health/ready")
    assert_problem(answer, 503)
    assert "worker" in answer.json()["detail"]
    assert client.get("/health/web").status_code == 200


def test_not_ready_until_a_restarted_redis_has_settled(
    client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    assert player
    eventually(lambda: web_redis.hget(keys.PREFIX + "run", "id"))
    web_redis.hset(keys.PREFIX + "run", "id", "of the process before")
    answer = client.get("/health/ready")
    assert_problem(answer, 503)
    assert "Redis was restarted" in answer.json()["detail"]
    assert client.get("/health/web").status_code == 200


def test_a_request_that_is_not_http_gets_a_problem_too(server: Server) -> None:
    with socket.create_connection(server.address, TIMEOUT_SECONDS) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
        received = b"".join(iter(lambda: opened.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == 400
