"""API keys and tickets, on two web processes: each accepts the tickets of the other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import httpx
import pytest
from redis import Redis

from tests.integration.web_harness import Player, RedisServer, Server, assert_problem, serving, submit
from tests.integration.web_sockets import HANDSHAKE, read_to_close, slow_socket, websocket

pytest_plugins = ["tests.integration.web_fixtures"]

ODD_KEYS = (
    "a=b",
    "a==",
    "=",
    'a="b"',
    "a b",
    "a=b c=d",
    "a:b",
    "Bearer",
    '"',
    "%3D",
    "~!@#$%^&*()_+{}|<>?;'`\\/",
)
KEYS = "ann:key-of-ann,bob:clé-de-bob,bob:bobs-other-key," + ",".join(f"odd:{key}" for key in ODD_KEYS)
ANN = {"Authorization": "Bearer key-of-ann"}
BOB = {"Authorization": "Bearer bobs-other-key"}


@pytest.fixture(scope="module")
def server(redis_of_web: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(redis_of_web.url, tmp_path_factory.mktemp("web"), API_KEYS=KEYS, HOST="0.0.0.0") as running:
        yield running


@pytest.fixture
def ann(server: Server, web_redis: Redis) -> Iterator[httpx.Client]:
    assert web_redis.ping()
    with httpx.Client(base_url=server.url, headers=ANN, timeout=30) as opened:
        yield opened


def assert_unauthorized(answer: httpx.Response) -> None:
    assert_problem(answer, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Bearer wrong", "Basic YTpi", "key-of-ann", "Bearer ann"]
)
def test_without_a_valid_key_every_answer_is_401(
    server: Server, client: httpx.Client, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for answer in (
        client.post("/v1/jobs", json={"prompt": "x"}, headers=headers),
        client.get("/v1/jobs", headers=headers),
        client.get("/v1/jobs/job_x", headers=headers),
        client.get("/v1/jobs/job_x/events", headers=headers),
        client.post("/v1/jobs/job_x/ticket", headers=headers),
        client.post("/generate", json={"prompts": ["x"]}, headers=headers),
        client.get("/health", headers=headers),
    ):
        assert_unauthorized(answer)
    with websocket(server, "job_x", **headers) as ws:
        assert read_to_close(ws) == ([], 4401)


def test_probes_and_page_need_no_key(client: httpx.Client, player: Player) -> None:
    assert player.info
    for path in ("/health/live", "/health/web", "/health/ready"):
        assert client.get(path).status_code == 200
    assert client.get("/static/none.css").status_code == 404
    assert client.get("/none.css").status_code == 404


def test_a_key_gives_access_to_its_owners_jobs_only(client: httpx.Client, ann: httpx.Client) -> None:
    job_id = submit(ann)
    assert ann.get(f"/v1/jobs/{job_id}").status_code == 200
    assert ann.get("/health").status_code == 200
    for answer in (
        client.get(f"/v1/jobs/{job_id}", headers=BOB),
        client.get(f"/v1/jobs/{job_id}/events", headers=BOB),
        client.post(f"/v1/jobs/{job_id}/cancel", headers=BOB),
        client.post(f"/v1/jobs/{job_id}/retry", headers=BOB),
        client.post(f"/v1/jobs/{job_id}/ticket", headers=BOB),
        client.delete(f"/v1/jobs/{job_id}", headers=BOB),
    ):
        assert_problem(answer, 404)
    assert client.get("/v1/jobs", headers=BOB).json()["data"] == []
    assert len(ann.get("/v1/jobs").json()["data"]) == 1


def test_two_keys_of_one_name_are_one_owner(client: httpx.Client) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "x"}, headers=BOB)
    job_id = answer.json()["id"]
    other_key = [(b"Authorization", "bearer clé-de-bob".encode())]
    assert client.get(f"/v1/jobs/{job_id}", headers=other_key).status_code == 200


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_key_may_hold_any_character_that_a_header_can(client: httpx.Client, key: str) -> None:
    assert client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert_unauthorized(client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}x"}))


def test_an_idempotency_key_belongs_to_its_owner(client: httpx.Client, ann: httpx.Client) -> None:
    headers = {"Idempotency-Key": "k"}
    ann.post("/v1/jobs", json={"prompt": "x"}, headers=headers)
    assert client.post("/v1/jobs", json={"prompt": "y"}, headers={**headers, **BOB}).status_code == 202


def test_a_ticket_opens_the_streams_of_its_job_on_any_server(
    redis_of_web: RedisServer,
    server: Server,
    ann: httpx.Client,
    player: Player,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    job_id = submit(ann)
    player.start(job_id).complete("x")
    answer = ann.post(f"/v1/jobs/{job_id}/ticket")
    assert answer.status_code == 200
    ticket = answer.json()["ticket"]
    created = ann.get(f"/v1/jobs/{job_id}").json()["created_at"]
    lifetime = datetime.fromisoformat(answer.json()["expires_at"]) - datetime.fromisoformat(created)
    assert 900 <= lifetime.total_seconds() < 960
    with serving(redis_of_web.url, tmp_path_factory.mktemp("web"), API_KEYS=KEYS) as other:
        for place in (server, other):
            with websocket(place, job_id, f"?ticket={ticket}&after=1") as ws:
                events, code = read_to_close(ws)
            assert ([event["seq"] for event in events], code) == ([2, 3], 1000)
            stream = httpx.get(f"{place.url}/v1/jobs/{job_id}/events?ticket={ticket}")
            assert (stream.status_code, stream.text.count("data: ")) == (200, 3)


def test_a_ticket_opens_nothing_else(server: Server, client: httpx.Client, ann: httpx.Client) -> None:
    job_id, other_id = submit(ann), submit(ann)
    ticket = ann.post(f"/v1/jobs/{job_id}/ticket").json()["ticket"]
    assert_unauthorized(client.get(f"/v1/jobs/{job_id}?ticket={ticket}"))
    assert_unauthorized(client.post(f"/v1/jobs/{job_id}/cancel?ticket={ticket}"))
    assert_unauthorized(client.get(f"/v1/jobs/{other_id}/events?ticket={ticket}"))
    assert_unauthorized(client.get(f"/v1/jobs/{job_id}/events?ticket={ticket}x"))
    with websocket(server, other_id, f"?ticket={ticket}") as ws:
        assert read_to_close(ws) == ([], 4401)


def test_an_expired_ticket_is_refused(client: httpx.Client, ann: httpx.Client, web_redis: Redis) -> None:
    job_id = submit(ann)
    ticket = ann.post(f"/v1/jobs/{job_id}/ticket").json()["ticket"]
    [key] = web_redis.scan_iter("*:ticket:*")
    assert 0 < web_redis.ttl(key) <= 900
    assert ticket not in key
    web_redis.delete(key)
    assert_unauthorized(client.get(f"/v1/jobs/{job_id}/events?ticket={ticket}"))


def test_with_keys_any_host_is_served(client: httpx.Client) -> None:
    assert client.get("/v1/jobs", headers={**ANN, "Host": "api.example"}).status_code == 200


def test_with_keys_a_page_may_come_from_anywhere(server: Server, ann: httpx.Client) -> None:
    job_id = submit(ann)
    ticket = ann.post(f"/v1/jobs/{job_id}/ticket").json()["ticket"]
    path = f"/v1/jobs/{job_id}/stream?ticket={ticket}"
    with slow_socket(server, path, *HANDSHAKE, "Origin: https://app.example") as opened:
        assert opened.recv(65536).startswith(b"HTTP/1.1 101 ")
