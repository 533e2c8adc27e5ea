"""How long clients may hold resources: bodies that do not come, clients that vanish, many streams."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tests.integration.web_channels import no_channels
from tests.integration.web_harness import Player, RedisServer, Server, assert_problem, serving, submit
from tests.integration.web_sockets import (
    HANDSHAKE,
    close_code,
    read,
    read_all,
    read_to_close,
    slow_socket,
    vanish,
    websocket,
)

pytest_plugins = ["tests.integration.web_fixtures"]

HASTY = {"TEST_BODY_SECONDS": "0.5", "TEST_SILENT_SECONDS": "1"}
KEYS = "ann:key-of-ann,bob:key-of-bob"
ANN, BOB = {"Authorization": "Bearer key-of-ann"}, {"Authorization": "Bearer key-of-bob"}


@pytest.fixture(scope="module")
def server(redis_of_web: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with short time-outs for bodies and for acknowledgements."""
    with serving(redis_of_web.url, tmp_path_factory.mktemp("web"), **HASTY) as running:
        yield running


@pytest.fixture(scope="module")
def capped_server(redis_of_web: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("web")
    with serving(redis_of_web.url, folder, API_KEYS=KEYS, MAX_STREAMS_PER_KEY="2") as running:
        yield running


POST = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def answer_to(
    server: Server, request: str, *, is_sending_closed: bool = False
) -> tuple[int, dict[str, object]]:
    """Returns the status and problem of a raw request. Checks that the server closes the connection."""
    with socket.create_connection(server.address, TIMEOUT_SECONDS) as opened:
        opened.sendall(request.encode())
        if is_sending_closed:
            opened.shutdown(socket.SHUT_WR)
        head, _, body = read_all(opened).partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "rest",
    [
        "Content-Length: 100\r\n\r\n",
        'Content-Length: 100\r\n\r\n{"prompt": ',
        "Transfer-Encoding: chunked\r\n\r\n",
        'Transfer-Encoding: chunked\r\n\r\nb\r\n{"prompt": \r\n',
        'Transfer-Encoding: chunked\r\n\r\nff\r\n{"prompt": ',
    ],
)
def test_a_body_that_does_not_come_is_408(server: Server, client: httpx.Client, rest: str) -> None:
    status, problem = answer_to(server, POST + rest)
    assert (status, problem["code"]) == (408, "request_timeout")
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_body_that_trickles_is_408(server: Server) -> None:
    """Each byte comes in time, but the whole body does not."""
    with socket.create_connection(server.address, TIMEOUT_SECONDS) as opened:
        opened.sendall((POST + "Content-Length: 1000000\r\n\r\n").encode())
        opened.settimeout(0.1)
        received = b""
        while not received:
            opened.sendall(b" ")
            try:
                received = opened.recv(65536)
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_nobody_reads_is_not_waited_for(server: Server, client: httpx.Client) -> None:
    path = f"/v1/jobs/{submit(client)}/cancel"
    with socket.create_connection(server.address, TIMEOUT_SECONDS) as opened:
        opened.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n".encode())
        assert read_all(opened).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "rest",
    [
        'Content-Length: 100\r\n\r\n{"prompt": "x"}',
        'Transfer-Encoding: chunked\r\n\r\nf\r\n{"prompt": "x"}\r\n',
        'Transfer-Encoding: chunked\r\n\r\nzz\r\n{"prompt": "x"}\r\n0\r\n\r\n',
        'Transfer-Encoding: chunked\r\n\r\n3\r\n{"prompt": "x"}\r\n0\r\n\r\n',
    ],
)
def test_a_body_that_is_cut_off_or_malformed_is_400(server: Server, client: httpx.Client, rest: str) -> None:
    status, problem = answer_to(server, POST + rest, is_sending_closed=True)
    assert (status, problem["code"]) == (400, "malformed_request")
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_slow_body_that_comes_is_accepted(server: Server) -> None:
    body = json.dumps({"prompt": "x" * 300_000}).encode()
    with socket.create_connection(server.address, TIMEOUT_SECONDS) as opened:
        opened.sendall((POST + f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n").encode())
        for start in range(0, len(body), 1000):
            opened.sendall(body[start : start + 1000])
        assert read_all(opened).startswith(b"HTTP/1.1 202 ")


def test_headers_that_do_not_end_are_not_waited_for(redis_of_web: RedisServer, tmp_path: Path) -> None:
    with (
        serving(redis_of_web.url, tmp_path, GUNICORN_CMD_ARGS="--keep-alive 1") as server,
        socket.create_connection(server.address, TIMEOUT_SECONDS) as opened,
    ):
        opened.sendall(b"GET /health/live HTTP/1.1\r\n")
        opened.settimeout(0.1)

        def is_closed() -> bool:
            try:
                opened.sendall(b"X: y\r\n")
                return opened.recv(65536) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        eventually(is_closed)


def test_a_stop_waits_for_no_body(redis_of_web: RedisServer, tmp_path: Path) -> None:
    with (
        serving(redis_of_web.url, tmp_path, TEST_BODY_SECONDS="3600") as server,
        socket.create_connection(server.address, TIMEOUT_SECONDS) as opened,
    ):
        opened.sendall((POST + "Expect: 100-continue\r\nContent-Length: 100\r\n\r\n").encode())
        assert opened.recv(65536).startswith(b"HTTP/1.1 100 ")  # The server is about to read.
        server.process.send_signal(signal.SIGTERM)
        answer = read_all(opened)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "going_away"
        assert server.process.wait(TIMEOUT_SECONDS) == 0
        assert "graceful timeout" not in server.log.read_text()


@pytest.mark.parametrize(
    "request_of",
    [
        lambda job_id: (f"GET /v1/jobs/{job_id}/stream HTTP/1.1", *HANDSHAKE),
        lambda job_id: (f"GET /v1/jobs/{job_id}/events HTTP/1.1",),
        lambda job_id: (f"GET /v1/jobs/{job_id}?wait=60 HTTP/1.1",),
        lambda _: (
            "POST /v1/jobs HTTP/1.1",
            "Prefer: wait=60",
            "Content-Type: application/json",
            "Content-Length: 15",
        ),
    ],
    ids=["websocket", "events", "wait", "prefer"],
)
def test_a_client_that_vanishes_is_noticed(
    server: Server, client: httpx.Client, web_redis: Redis, request_of: object
) -> None:
    """The job waits, so nothing is sent that the client could fail to acknowledge."""
    assert callable(request_of)
    first, *headers = request_of(submit(client))
    with socket.create_connection(server.address, TIMEOUT_SECONDS) as opened:
        opened.sendall("\r\n".join([first, "Host: localhost", *headers, "", '{"prompt": "x"}']).encode())
        eventually(lambda: not no_channels(web_redis))
        vanish(opened)
        eventually(lambda: no_channels(web_redis))


def test_a_client_that_vanishes_while_it_is_sent_to_is_noticed(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    with slow_socket(server, f"/v1/jobs/{job_id}/events") as opened:
        eventually(lambda: not no_channels(web_redis))
        vanish(opened)
        run.write("x")
        eventually(lambda: no_channels(web_redis))


def test_streams_and_waiting_calls_of_an_owner_are_capped(capped_server: Server, web_redis: Redis) -> None:
    assert web_redis.ping()
    with (
        httpx.Client(base_url=capped_server.url, headers=ANN, timeout=TIMEOUT_SECONDS) as ann,
        httpx.Client(base_url=capped_server.url, headers=BOB, timeout=TIMEOUT_SECONDS) as bob,
    ):
        job_id = submit(ann)
        path = f"/v1/jobs/{job_id}"
        ticket = ann.post(f"{path}/ticket").json()["ticket"]
        with ann.stream("GET", f"{path}/events"), websocket(capped_server, job_id, **ANN) as ws:
            eventually(lambda: ann.get(f"{path}?wait=0.01").status_code == 429)
            for answer in (
                ann.get(f"{path}/events"),
                ann.get(f"{path}?wait=60"),
                ann.post("/v1/jobs", json={"prompt": "x"}, headers={"Prefer": "wait=60"}),
                ann.post("/basic_generate", json={"prompt": "x"}),
                ann.post("/generate_stream", json={"prompt": "x"}),
                httpx.get(f"{capped_server.url}{path}/events?ticket={ticket}"),
            ):
                assert_problem(answer, 429)
                assert answer.json()["code"] == "too_many_streams"
                assert int(answer.headers["Retry-After"]) >= 1
            assert close_code(capped_server, job_id, **ANN) == 4429
            assert close_code(capped_server, job_id, f"?ticket={ticket}") == 4429
            assert [job["id"] for job in ann.get("/v1/jobs").json()["data"]] == [
                job_id
            ]  # No job was accepted.
            assert ann.get(path).status_code == 200
            assert bob.get(f"/v1/jobs/{submit(bob)}?wait=0.01").status_code == 200
            ws.close()
            eventually(lambda: ann.get(f"{path}?wait=0.01").status_code == 200)
        ann.post(f"{path}/cancel")
        for _ in range(5):  # Each takes a place and gives it back.
            eventually(lambda: ann.get(f"{path}/events").status_code == 200)
            eventually(lambda: close_code(capped_server, job_id, **ANN) == 1000)
            eventually(lambda: ann.get(f"/v1/jobs/{submit(ann)}?wait=0.01").status_code == 200)


def test_a_recycled_process_closes_its_streams(
    redis_of_web: RedisServer, player: Player, tmp_path: Path
) -> None:
    with (
        serving(redis_of_web.url, tmp_path, GUNICORN_CMD_ARGS="--max-requests 10") as server,
        httpx.Client(base_url=server.url, timeout=TIMEOUT_SECONDS) as client,
    ):
        job_id = submit(client)
        player.start(job_id)
        with websocket(server, job_id) as ws:
            assert read(ws)["seq"] == 1
            for _ in range(10):
                client.get("/health/live")
            assert read_to_close(ws) == ([], 1001)
        eventually(server.is_up)
        assert "graceful timeout" not in server.log.read_text()


def test_a_process_whose_master_was_killed_closes_its_streams(
    redis_of_web: RedisServer, player: Player, tmp_path: Path
) -> None:
    with (
        serving(redis_of_web.url, tmp_path) as server,
        httpx.Client(base_url=server.url, timeout=TIMEOUT_SECONDS) as client,
    ):
        job_id = submit(client)
        player.start(job_id)
        [worker] = psutil.Process(server.process.pid).children()
        with websocket(server, job_id) as ws:
            assert read(ws)["seq"] == 1
            server.process.kill()
            server.process.wait()
            assert read_to_close(ws) == ([], 1001)
        worker.wait(TIMEOUT_SECONDS)
