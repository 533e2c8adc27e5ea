"""Reads a job's events as clients do, and as clients should not."""

from __future__ import annotations

import ctypes
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from simple_websocket import Client, ConnectionClosed

from harness.waiting import TIMEOUT_SECONDS
from tests.integration.web_harness import Server

Event = dict[str, Any]


class Socket(Client):  # type: ignore[misc]
    """simple-websocket's client, fixed: it ignores data that comes together with the handshake's answer."""

    def _thread(self) -> None:
        self.connected = self._handle_events()
        super()._thread()


@contextmanager
def websocket(server: Server, job_id: str, query: str = "", **headers: str) -> Iterator[Socket]:
    client = Socket.connect(f"{server.ws_url}/v1/jobs/{job_id}/stream{query}", headers=headers)
    try:
        yield client
    finally:
        if client.connected:
            client.close()


def read(client: Socket) -> Event:
    text = client.receive(timeout=TIMEOUT_SECONDS)
    assert text is not None, "no event came"
    event: Event = json.loads(text)
    return event


def read_to_close(client: Socket) -> tuple[list[Event], int]:
    """Returns the remaining events and the close code."""
    events: list[Event] = []
    try:
        while True:
            events.append(read(client))
    except ConnectionClosed as closed:
        return events, int(closed.reason)


def close_code(server: Server, job_id: str, query: str = "", **headers: str) -> int:
    with websocket(server, job_id, query, **headers) as client:
        return read_to_close(client)[1]


def sse_events(lines: Iterator[str]) -> Iterator[Event]:
    """Yields the events, and checks that `id` and `event` agree with the data."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
        elif fields:
            event = json.loads(fields["data"])
            assert fields["id"] == str(event["seq"])
            assert fields["event"] == event["type"]
            yield event
            fields = {}


def sse(client: httpx.Client, job_id: str, query: str = "", **headers: str) -> list[Event]:
    """Returns all events of a job to its end."""
    with client.stream("GET", f"/v1/jobs/{job_id}/events{query}", headers=headers) as answer:
        return sse_rest(answer)


def sse_rest(answer: httpx.Response) -> list[Event]:
    """Returns the remaining events of a stream."""
    assert answer.status_code == 200
    return list(sse_events(line for line in answer.iter_lines() if not line.startswith(":")))


def texts(events: list[Event]) -> str:
    return "".join(event["text"] for event in events if event["type"] == "token")


def same(events: list[Event]) -> list[Event]:
    """Returns the events without the job's URLs, because simple-websocket's client sends no port in Host."""
    return [{**event, "job": event.get("job", {}) | {"urls": None}} for event in events]


def assert_gapless(events: list[Event], after: int = 0) -> None:
    assert [event["seq"] for event in events] == list(range(after + 1, after + 1 + len(events)))


def slow_socket(server: Server, path: str, *headers: str) -> socket.socket:
    """Opens a connection with a small window and sends a request. Nothing has been read from it."""
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.settimeout(TIMEOUT_SECONDS)
    opened.connect(server.address)
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
    opened.sendall("\r\n".join(lines).encode())
    return opened


SO_ATTACH_FILTER = 26  # asm-generic/socket.h, as Python's socket module lacks it
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A socket filter (linux/filter.h) with one instruction: keep no byte of a packet."""


def vanish(client: socket.socket) -> None:
    """Makes the socket receive and acknowledge nothing any more, as if its host had lost power."""
    instruction = ctypes.create_string_buffer(DROP_ALL)
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    client.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def read_all(opened: socket.socket) -> bytes:
    parts = []
    while part := opened.recv(65536):
        parts.append(part)
    return b"".join(parts)


def frames_of(received: bytes) -> list[tuple[int, bytes]]:
    """Returns (opcode, payload) of unmasked frames after the handshake. Fails if one is cut off."""
    rest = received.split(b"\r\n\r\n", 1)[1]
    frames = []
    while rest:
        opcode, length, start = rest[0] & 15, rest[1], 2
        if length == 126:
            length, start = int.from_bytes(rest[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(rest[2:10], "big"), 10
        payload = rest[start : start + length]
        assert len(payload) == length, "a frame is cut off"
        frames.append((opcode, payload))
        rest = rest[start + length :]
    return frames
