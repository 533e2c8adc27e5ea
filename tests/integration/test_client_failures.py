"""What the Python client retries, and which errors it raises."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from client import ApiError, Client, ClientError, NotFoundError, UnavailableError, UnreachableError
from harness.redis_server import free_port
from tests.integration.scripted_server import Answer, scripted_server
from tests.integration.tls import Certificate

pytest_plugins = ["tests.integration.product_fixtures"]


def test_a_stream_gives_up_on_a_server_that_does_not_come_back() -> None:
    with (
        Client(f"http://127.0.0.1:{free_port()}", retry_seconds=0.5) as client,
        pytest.raises(UnreachableError),
    ):
        list(client.stream("job_x"))


def test_a_call_gives_up_on_a_server_that_does_not_come_back() -> None:
    with (
        Client(f"http://127.0.0.1:{free_port()}", retry_seconds=0.5) as client,
        pytest.raises(UnreachableError),
    ):
        client.submit("hello")


@pytest.fixture(params=["a certificate that nobody trusts", "no TLS"])
def wrong_https(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The https address of a server to which no connection can be made."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        if request.param != "no TLS":
            made = Certificate.made_in(tmp_path)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(made.certificate, made.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever).start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()


def test_a_connection_that_tls_refuses_is_not_tried_again(wrong_https: str) -> None:
    retries: list[ClientError] = []
    with Client(wrong_https, on_retry=retries.append) as client:
        with pytest.raises(UnreachableError, match=r"\[SSL: "):
            client.submit("hello")
        with pytest.raises(UnreachableError, match=r"\[SSL: "):
            list(client.stream("job_x"))
    assert retries == []


def test_all_tries_of_a_submit_carry_one_idempotency_key() -> None:
    with (
        scripted_server((503, {"Retry-After": "0"}), (429, {}), (None, {}), (202, {})) as server,
        Client(server.url) as client,
    ):
        assert client.submit("hello").id == "job_1"
    keys, statuses = zip(*server.asked, strict=True)
    assert statuses == (503, 429, None, 202)
    assert len(set(keys)) == 1
    assert keys[0]


def test_two_submits_carry_two_keys() -> None:
    with (
        scripted_server((202, {}), (202, {})) as server,
        Client(server.url) as client,
    ):
        client.submit("hello")
        client.submit("hello")
    assert len({key for key, _ in server.asked}) == 2


def test_a_wait_longer_than_the_time_for_retries_is_not_begun() -> None:
    with (
        scripted_server((429, {"Retry-After": "3600"})) as server,
        Client(server.url) as client,
        pytest.raises(UnavailableError, match="busy"),
    ):
        client.submit("hello")


@pytest.mark.parametrize("key", ["ses\name", "sesame\n\u200b", "ses\x00ame", "ses\udcffame"])
def test_a_key_that_cannot_be_sent_is_refused_at_once_and_not_shown(key: str) -> None:
    with pytest.raises(ClientError) as refusal:
        Client(f"http://127.0.0.1:{free_port()}", key)
    assert str(refusal.value) == "the API key holds a character that cannot be sent, such as a line end"


@pytest.mark.parametrize(
    "url", ["user:hidden@host", "http://", "http://[hidden", "ftp://:hidden@host", "http://host:hidden"]
)
def test_an_address_that_is_none_is_refused_at_once_and_not_shown(url: str) -> None:
    with pytest.raises(ClientError, match="must be a URL such as http://") as refusal:
        Client(url)
    assert "hidden" not in str(refusal.value)


def test_a_password_in_the_address_is_not_shown() -> None:
    url = f"http://ali:hidden@127.0.0.1:{free_port()}"
    with Client(url, retry_seconds=0) as client:
        for call in (lambda: client.submit("hello"), lambda: list(client.stream("job_x"))):
            with pytest.raises(UnreachableError) as refusal:
                call()
            assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize("options", [{"prompt": "\udcff"}, {"prompt": "x", "temperature": float("nan")}])
def test_what_cannot_be_sent_is_refused_at_once(options: dict[str, Any]) -> None:
    with (
        Client(f"http://127.0.0.1:{free_port()}") as client,
        pytest.raises(ClientError, match="the request cannot be sent"),
    ):
        client.submit(**options)


def test_a_server_error_is_not_tried_again() -> None:
    with (
        scripted_server((500, {})) as server,
        Client(server.url) as client,
        pytest.raises(ApiError, match="busy"),
    ):
        client.submit("hello")
    assert len(server.asked) == 1


Call = Callable[[Client], object]

CALLS: dict[str, Call] = {
    "submit": lambda client: client.submit("hello"),
    "retry": lambda client: client.retry("job_1"),
    "get": lambda client: client.get("job_1"),
    "wait": lambda client: client.wait("job_1", timeout=0),
    "cancel": lambda client: client.cancel("job_1"),
    "delete": lambda client: client.delete("job_1"),
}

ENDED: Answer = (200, {}, b'{"id": "job_1", "status": "completed"}')


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_repeated_while_the_server_or_its_proxy_is_busy(name: str, status: int) -> None:
    troubles: list[ClientError] = []
    with (
        scripted_server((status, {}), ENDED) as server,
        Client(server.url, on_retry=troubles.append) as client,
    ):
        CALLS[name](client)
    keys, statuses = zip(*server.asked, strict=True)
    assert statuses == (status, 200)
    assert len(set(keys)) == 1
    assert [str(trouble) for trouble in troubles] == ["busy, come later"]


@pytest.mark.parametrize("lost", [(504, {}), (None, {})])
def test_a_delete_whose_answer_was_lost_succeeds(lost: tuple[int | None, dict[str, str]]) -> None:
    with scripted_server(lost, (404, {})) as server, Client(server.url) as client:
        client.delete("job_1")
    with scripted_server((404, {})) as server, Client(server.url) as client, pytest.raises(NotFoundError):
        client.delete("job_1")


def test_a_stream_that_is_refused_raises_the_servers_message() -> None:
    with (
        scripted_server((403, {})) as server,
        Client(server.url) as client,
        pytest.raises(ApiError, match=r"^busy, come later$") as refusal,
    ):
        list(client.stream("job_1"))
    assert (refusal.value.status, refusal.value.code) == (403, "busy")


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"detail": [{"loc": "x"}]}', b'{"detail": " "}'])
def test_a_refusal_without_a_text_is_named_by_its_status(body: bytes) -> None:
    with (
        scripted_server((502, {"Retry-After": "3600"}, body)) as server,
        Client(server.url) as client,
        pytest.raises(UnavailableError, match=r"^HTTP 502 Bad Gateway$"),
    ):
        client.submit("hello")


def test_an_html_page_instead_of_json_is_an_error() -> None:
    with (
        scripted_server((200, {}, b"<html>Sign in to this network</html>")) as server,
        Client(server.url) as client,
        pytest.raises(ClientError, match="did not answer with JSON"),
    ):
        client.get("job_1")
