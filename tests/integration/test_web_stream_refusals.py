"""Requests for a stream that are refused, and messages of clients on a WebSocket."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from redis import Redis

from harness.waiting import eventually
from tasks import keys
from tests.integration.web_channels import no_channels
from tests.integration.web_harness import Player, RedisServer, Server, assert_problem, serving, submit
from tests.integration.web_sockets import (
    HANDSHAKE,
    assert_gapless,
    close_code,
    frames_of,
    read,
    read_all,
    read_to_close,
    slow_socket,
    websocket,
)

pytest_plugins = ["tests.integration.web_fixtures"]


def test_an_unknown_form_of_done_is_4400_or_422(server: Server, client: httpx.Client) -> None:
    job_id = submit(client)
    assert close_code(server, job_id, "?done=long") == 4400
    assert_problem(client.get(f"/v1/jobs/{job_id}/events?done=long"), 422, "done")


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "", "%2B1", "%D9%A3", "1e3", "9223372036854775808"])
def test_a_bad_after_is_4400_or_422(server: Server, client: httpx.Client, after: str) -> None:
    job_id = submit(client)
    assert close_code(server, job_id, f"?after={after}") == 4400
    answer = client.get(f"/v1/jobs/{job_id}/events?after={after}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "after"


def test_an_unknown_job_is_4404_or_404(server: Server, client: httpx.Client) -> None:
    assert close_code(server, "job_nope") == 4404
    assert client.get("/v1/jobs/job_nope/events").status_code == 404


def test_a_call_that_redis_refuses_is_no_outage(
    web_redis: Redis, redis_of_web: RedisServer, tmp_path: Path
) -> None:
    """A client must not try again and again what can never succeed. The log has the traceback."""
    with (
        serving(redis_of_web.url, tmp_path, expected_error="WRONGTYPE") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        job_id = submit(client)
        web_redis.set(keys.log(job_id), "a string, where a list belongs")
        for path in ("", "/events"):
            answer = client.get(f"/v1/jobs/{job_id}{path}")
            assert_problem(answer, 500)
            assert answer.json()["code"] == "internal_error"
            assert "Retry-After" not in answer.headers
        assert close_code(server, job_id) == 1011


def test_a_plain_request_for_the_websocket_is_a_problem(client: httpx.Client) -> None:
    answer = client.get(f"/v1/jobs/{submit(client)}/stream")
    assert_problem(answer, 400)
    assert "answers WebSocket handshakes only" in answer.json()["detail"]
    assert "/events" in answer.json()["detail"]


@pytest.mark.parametrize("missing", ["Sec-WebSocket-Version", "Sec-WebSocket-Key"])
def test_a_broken_handshake_is_400(server: Server, client: httpx.Client, missing: str) -> None:
    headers = [header for header in HANDSHAKE if not header.startswith(missing)]
    with slow_socket(server, f"/v1/jobs/{submit(client)}/stream", *headers, "Connection: close") as opened:
        received = opened.recv(65536)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in received


def test_the_server_agrees_on_no_compression(server: Server, client: httpx.Client) -> None:
    extension = "Sec-WebSocket-Extensions: permessage-deflate"
    path = f"/v1/jobs/{submit(client)}/stream"
    with slow_socket(server, path, *HANDSHAKE, extension) as opened:
        received = opened.recv(65536)
    assert received.startswith(b"HTTP/1.1 101 ")
    assert b"extensions" not in received.lower()


def test_a_page_from_elsewhere_may_not_read_along_without_keys(server: Server, client: httpx.Client) -> None:
    path = f"/v1/jobs/{submit(client)}/stream"
    refused = ["http://evil.example", "null", "http://[", "http://]", "http://localhost.evil.example"]
    for origin, status in [*((origin, 403) for origin in refused), ("http://localhost", 101)]:
        with slow_socket(server, path, *HANDSHAKE, f"Origin: {origin}") as opened:
            assert opened.recv(65536).startswith(b"HTTP/1.1 %d " % status), origin


def test_messages_of_clients_do_no_harm(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    with websocket(server, job_id) as talker:
        for _ in range(200):
            talker.send("hello")
            talker.send(b"\x00" * 100)
        run.write("x")
        assert [read(talker)["type"], read(talker)["type"]] == ["status", "token"]
        talker.send("x" * 5000)
        assert read_to_close(talker)[1] == 1009
        eventually(lambda: no_channels(web_redis))
    with slow_socket(server, f"/v1/jobs/{job_id}/stream", *HANDSHAKE) as garbage:
        garbage.recv(4096)
        garbage.sendall(b"\xff" * 100)
        read_all(garbage)


def masked(opcode: int, payload: bytes) -> bytes:
    """Returns a client's frame, with a mask of zeros."""
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


def test_pings_and_the_clients_close_frame_are_answered(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    with slow_socket(server, f"/v1/jobs/{job_id}/stream", *HANDSHAKE) as talker:
        received = b""
        for i in range(3):
            run.write(f"{i}")
            talker.sendall(masked(9, b"ping%d" % i))
            while b"ping%d" % i not in received:
                received += talker.recv(4096)
        talker.sendall(masked(8, b"\x03\xe8"))
        received += read_all(talker)
    frames = frames_of(received)
    assert [payload for opcode, payload in frames if opcode == 10] == [b"ping0", b"ping1", b"ping2"]
    assert_gapless([json.loads(payload) for opcode, payload in frames if opcode == 1])
    assert frames[-1] == (8, b"\x03\xe8")
    eventually(lambda: no_channels(web_redis))
