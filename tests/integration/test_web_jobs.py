"""The job routes on a real gunicorn, with each of their status codes."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tasks.job import JobError, Status
from tests.integration.web_harness import Player, RedisServer, Server, assert_problem, serving, submit
from tests.integration.web_sockets import read_all, slow_socket

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
    assert_problem(client.post("/v1/jobs", content=text, headers=JSON), 422, *fields)


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
    assert_problem(client.post("/v1/jobs", json={"prompt": prompt}), 413)

    def chunks() -> Any:
        yield b'{"prompt": "'
        for _ in range(20):
            yield b"x" * 65536
        yield b'"}'

    assert_problem(client.post("/v1/jobs", content=chunks(), headers=JSON), 413)
    assert client.post("/v1/jobs", json={"prompt": prompt[:-100]}).status_code == 202


def test_unknown_routes_and_methods_are_problems(client: httpx.Client) -> None:
    assert_problem(client.get("/v2/jobs"), 404)
    assert_problem(client.post("/nowhere"), 404)
    assert_problem(client.get("/v1/jobs/"), 404)
    answer = client.put("/v1/jobs")
    assert_problem(answer, 405)
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


def test_a_list_is_paged_newest_first(client: httpx.Client, player: Player) -> None:
    ids = [submit(client, str(i)) for i in range(5)][::-1]
    player.start(ids[-1]).complete("x")
    whole = client.get("/v1/jobs").json()
    assert [job["id"] for job in whole["data"]] == ids
    assert (whole["object"], whole["has_more"], whole["first_id"], whole["last_id"]) == (
        "list",
        False,
        ids[0],
        ids[-1],
    )
    page = client.get("/v1/jobs?limit=2").json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == (ids[:2], True)
    rest = client.get(f"/v1/jobs?after={page['last_id']}").json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (ids[2:], False)
    done = client.get("/v1/jobs?status=completed").json()
    assert [job["id"] for job in done["data"]] == ids[-1:]
    none = client.get("/v1/jobs?status=failed").json()
    assert (none["data"], none["first_id"], none["last_id"]) == ([], None, None)


def test_a_summary_is_what_lists_show(client: httpx.Client, player: Player, web_redis: Redis) -> None:
    long = "\U0001f600" * 1000
    texts = [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]
    ids = [
        submit(client, "short"),
        submit(client, long),
        str(
            client.post("/v1/jobs", json={"messages": [{"role": "user", "content": texts}] * 2}).json()["id"]
        ),
    ]
    player.start(ids[0]).complete("a text")
    listing = client.get("/v1/jobs?fields=summary").json()
    whole = client.get("/v1/jobs?fields=all").json()
    names = ("id", "status", "model", "created_at", "queue_position")
    prompts = ["one two\none two", long[:200], "short"]
    expected = [
        {**{name: job[name] for name in names}, "prompt": prompt}
        for job, prompt in zip(whole["data"], prompts, strict=True)
    ]
    assert listing == {**whole, "data": expected}
    assert [job["queue_position"] for job in expected] == [0, 0, None]
    # A record of an earlier version, which did not store the start of its prompt.
    web_redis.hdel(keys.job(ids[1]), "prompt_start")
    assert client.get("/v1/jobs?fields=summary").json() == listing
    page = client.get("/v1/jobs?fields=summary&limit=1&status=queued").json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == (ids[2:], True)
    assert client.get("/v1/jobs?fields=summary&status=failed").json()["data"] == []


def test_a_list_of_long_jobs_is_whole(client: httpx.Client) -> None:
    """The server reads and sends it in parts."""
    ids = [submit(client, f"{i}" * 400_000) for i in range(8)][::-1]
    listing = client.get("/v1/jobs").json()
    assert [job["id"] for job in listing["data"]] == ids
    assert listing["data"] == [client.get(f"/v1/jobs/{job_id}").json() for job_id in ids]
    assert (listing["has_more"], listing["first_id"], listing["last_id"]) == (False, ids[0], ids[-1])


def test_a_list_is_cut_off_where_redis_goes_away_in_the_middle(
    redis_of_web: RedisServer, server: Server, client: httpx.Client
) -> None:
    """The status has been sent by then, but the list must not look complete."""
    for i in range(24):
        submit(client, f"{i}" * 500_000)
    with slow_socket(server, "/v1/jobs?limit=100") as reader:
        received = reader.recv(4096)
        assert received.startswith(b"HTTP/1.1 200 ")
        redis_of_web.kill()
        try:
            received += read_all(reader)
        finally:
            redis_of_web.start()
    assert b"has_more" not in received
    assert not received.endswith(b"0\r\n\r\n")
    eventually(lambda: client.get("/health/web").status_code == 200)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("fields=", "fields"),
        ("fields=id", "fields"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("status=done", "status"),
        ("after=job_nope", "after"),
        ("after=", "after"),
    ],
)
def test_a_bad_list_query_is_422(client: httpx.Client, query: str, field: str) -> None:
    assert_problem(client.get(f"/v1/jobs?{query}"), 422, field)


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


def test_a_request_that_is_not_http_gets_a_problem_too(server: Server) -> None:
    with socket.create_connection(server.address, TIMEOUT_SECONDS) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
        received = b"".join(iter(lambda: opened.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == 400
