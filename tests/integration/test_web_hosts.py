"""Which host names requests may have: without API keys, pages of other names must have no access."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from harness.waiting import TIMEOUT_SECONDS
from tasks.settings import Settings
from tests.integration.web_harness import RedisServer, Server, assert_problem, serving, submit
from tests.integration.web_sockets import HANDSHAKE, read_all
from web.hosts import is_allowed

pytest_plugins = ["tests.integration.web_fixtures"]

FOREIGN = [
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "xlocalhost",
    "1.2.3",
]
OWN = [
    "localhost",
    "LOCALHOST:1",
    "localhost.",
    "app.localhost",
    "127.0.0.1",
    "127.9.9.9:80",
    "[::1]:8000",
    "192.0.2.7",
]
NO_HOST = [b"", b"[", b"a b", b"http://localhost", b"localhost:port", b"me@localhost", b"\xc3\xa9.example"]


def answered(server: Server, request: str, host: bytes, *headers: str) -> bytes:
    """Returns the answer to a request with a Host header that no client library would send."""
    with socket.create_connection(server.address, timeout=TIMEOUT_SECONDS) as opened:
        rest = "".join(f"\r\n{header}" for header in headers)
        opened.sendall(f"{request} HTTP/1.1\r\nHost: ".encode() + host + f"{rest}\r\n\r\n".encode())
        opened.shutdown(socket.SHUT_WR)
        return read_all(opened)


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_name_gets_nothing_but_the_reason(client: httpx.Client, host: str) -> None:
    job_id = submit(client)
    headers = {"Host": host}
    for answer in (
        client.post("/v1/jobs", json={"prompt": "x"}, headers=headers),
        client.get(f"/v1/jobs/{job_id}", headers=headers),
        client.get(f"/v1/jobs/{job_id}/events", headers=headers),
        client.get("/health", headers=headers),
        client.get("/", headers=headers),
        client.get("/none", headers=headers),
    ):
        assert_problem(answer, 403)
        assert answer.json()["code"] == "forbidden_host"
        assert "ALLOWED_HOSTS" in answer.json()["detail"]


def test_a_foreign_name_gets_no_websocket(server: Server, client: httpx.Client) -> None:
    request = f"GET /v1/jobs/{submit(client)}/stream"
    answer = answered(server, request, b"evil.example", *HANDSHAKE, "Origin: http://evil.example")
    assert answer.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("host", OWN)
def test_own_names_and_addresses_are_served(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/web"])
@pytest.mark.parametrize("host", [b"evil.example", b"", b"my_probe"])
def test_probes_are_answered_under_any_name(server: Server, path: str, host: bytes) -> None:
    assert answered(server, f"GET {path}", host).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("host", NO_HOST)
def test_an_invalid_host_is_400(server: Server, host: bytes) -> None:
    answer = answered(server, "GET /v1/jobs", host)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


def test_names_can_be_allowed(redis_of_web: RedisServer, tmp_path: Path) -> None:
    variables = {"HOST": "0.0.0.0", "ALLOW_ANONYMOUS": "1", "ALLOWED_HOSTS": "api.example,*.inner.example"}
    with (
        serving(redis_of_web.url, tmp_path, **variables) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        names = [
            "api.example",
            "API.example:443",
            "a.inner.example",
            "localhost",
            "127.0.0.1",
            "evil.example",
        ]
        answers = [client.get("/v1/models", headers={"Host": name}).status_code for name in names]
    assert answers == [200, 200, 200, 200, 200, 403]


@pytest.mark.parametrize(
    ("variables", "name", "expected"),
    [
        ({"host": "gpubox.example", "allow_anonymous": True}, "gpubox.example", True),
        ({"host": "0.0.0.0", "allow_anonymous": True}, "gpubox.example", False),
        ({"host": "0.0.0.0", "allow_anonymous": True}, socket.gethostname().lower(), True),
        ({"allowed_hosts": ("*",)}, "anything.example", True),
        ({"api_keys": {"key": "ann"}}, "anything.example", True),
        ({"api_keys": {"key": "ann"}, "allowed_hosts": ("api.example",)}, "anything.example", False),
        ({"allowed_hosts": ("*.example",)}, "example", False),
        ({"allowed_hosts": ("*.example",)}, "notexample", False),
    ],
)
def test_settings_decide(variables: dict[str, object], name: str, expected: bool) -> None:
    assert is_allowed(name, Settings.model_validate(variables)) is expected
