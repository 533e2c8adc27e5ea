"""The socket of a WebSocket sends whole frames, with and without waiting."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import gevent.socket
import pytest

from harness.waiting import TIMEOUT_SECONDS, eventually
from web.relay import websocket_frames
from web.relay.websocket_frames import FrameSocket, StalledError, text_message

CLOSE_FRAME = b"\x88\x02\x03\xf0"
FRAME = text_message(1, "token", "x" * 100)


class Narrow(gevent.socket.socket):  # type: ignore[misc]
    """A socket that sends at most `width` bytes at a time."""

    width = 1 << 30

    def send(self, data: Any, *flags: Any) -> int:
        return int(super().send(data[: self.width], *flags))


def connected() -> tuple[socket.socket, socket.socket]:
    """Returns both ends of a connection over TCP. The second one has a small buffer."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        return listener.accept()[0], client.dup()


@pytest.fixture(params=[socket.socketpair, connected])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Narrow, socket.socket]]:
    ours, theirs = request.param()
    theirs.settimeout(TIMEOUT_SECONDS)
    with Narrow(fileno=ours.detach()) as server, theirs:
        yield server, theirs


def received(client: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        parts.append(client.recv(size))
        size -= len(parts[-1])
    return b"".join(parts)


def test_frames_are_pushed_without_waiting(pair: tuple[Narrow, socket.socket]) -> None:
    server, client = pair
    frames = FrameSocket(server)
    assert all(frames.push(FRAME) for _ in range(20))
    assert received(client, 20 * len(FRAME)) == 20 * FRAME
    assert not frames.has_rest
    frames.close()


def test_a_reader_that_stops_is_left_room_for_the_close_frame(
    pair: tuple[Narrow, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_frames, "STALL_SECONDS", 0.01)
    server, client = pair
    frames = FrameSocket(server)
    pushed = 0
    while frames.push(FRAME):
        pushed += 1
    assert not frames.has_rest
    with pytest.raises(StalledError):
        frames.send(FRAME)
    frames.send(CLOSE_FRAME)
    expected = pushed * FRAME + CLOSE_FRAME
    assert received(client, len(expected)) == expected
    frames.close()


def test_the_rest_of_a_frame_comes_before_the_next_one(pair: tuple[Narrow, socket.socket]) -> None:
    server, client = pair
    frames = FrameSocket(server)
    server.width = 30
    assert frames.push(FRAME)
    assert frames.has_rest
    assert not frames.push(CLOSE_FRAME)
    assert received(client, 30) == FRAME[:30]
    frames.send(CLOSE_FRAME)
    assert received(client, len(FRAME + CLOSE_FRAME) - 30) == FRAME[30:] + CLOSE_FRAME
    assert not frames.has_rest
    frames.close()


def test_a_connection_outlives_its_request(pair: tuple[Narrow, socket.socket]) -> None:
    """gunicorn closes the socket when the request has ended."""
    server, client = pair
    frames = FrameSocket(server)
    server.close()
    assert frames.push(FRAME)
    assert received(client, len(FRAME)) == FRAME
    client.sendall(b"hello")
    frames.wait_readable(TIMEOUT_SECONDS)
    assert (frames.recv(), frames.recv()) == (b"hello", None)
    frames.close()
    assert client.recv(1) == b""


def test_a_client_that_has_left_gets_nothing(pair: tuple[Narrow, socket.socket]) -> None:
    server, client = pair
    frames = FrameSocket(server)
    client.close()
    frames.wait_readable(TIMEOUT_SECONDS)
    assert frames.recv() == b""
    eventually(lambda: not frames.push(FRAME))  # TCP accepts what comes before the client's reset.
    with pytest.raises(OSError, match=r"pipe|reset"):
        frames.send(FRAME)
    frames.close()
