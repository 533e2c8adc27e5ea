"""A lean WebSocket client: a process that reads many streams and notes when each part of them arrived.

It parses nothing while it reads, so that it takes little of the CPU time that the measured processes need.
"""

from __future__ import annotations

import multiprocessing
import resource
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

import hiredis

REQUEST = "GET {path} HTTP/1.1\r\nHost: {host}\r\n"
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
READ_BYTES = 256 * 1024
SPARE_DESCRIPTORS = 200

Part = tuple[float, bytes]
"""time.perf_counter(), which all processes of a machine share, and what arrived then."""

Greeting = tuple[tuple[str, int], bytes, bytes]
"""An address, what to send there, and what the answer contains once the connection is up."""

_processes = multiprocessing.get_context("fork")


@dataclass
class Streams:
    """What arrived on each connection since `record`, and which connections are still open."""

    parts: list[list[Part]]
    open: list[bool] = field(default_factory=list)


class Client:
    """Controls the process that reads."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def wait_until_connected(self) -> None:
        assert self._pipe.recv() == "connected"

    def record(self) -> None:
        self._ask("record")

    def collect(self) -> Streams:
        """Returns what arrived since `record`."""
        found: Streams = self._ask("collect")
        return found

    def _ask(self, command: str) -> Any:
        self._pipe.send(command)
        return self._pipe.recv()


@contextmanager
def reading(greetings: Sequence[Greeting]) -> Iterator[Client]:
    """Connects to each address, sends its greeting, and reads. A connection is up when its marker arrived."""
    ours, theirs = _processes.Pipe()
    process = _processes.Process(target=_read, args=(theirs, greetings), daemon=True)
    process.start()
    try:
        client = Client(ours)
        client.wait_until_connected()
        yield client
    finally:
        process.kill()
        process.join()


def streams(url: str, jobs: Sequence[str], *, sse: bool = False) -> list[Greeting]:
    """Returns the greetings of readers of jobs, over WebSockets or by Server-Sent Events."""
    host = urlsplit(url)
    assert host.hostname
    assert host.port
    form = REQUEST + ("" if sse else UPGRADE) + "\r\n"
    paths = [f"/v1/jobs/{job}/{'events' if sse else 'stream'}?done=short" for job in jobs]
    return [
        ((host.hostname, host.port), form.format(path=path, host=host.netloc).encode(), b"\r\n\r\n")
        for path in paths
    ]


def subscriber(redis_url: str, channels: Sequence[str]) -> Greeting:
    """Returns the greeting of a connection to Redis that subscribes to channels."""
    host = urlsplit(redis_url)
    assert host.hostname
    assert host.port
    command = hiredis.pack_command(("SUBSCRIBE", *channels))  # type: ignore[arg-type]
    return ((host.hostname, host.port), command, channels[-1].encode())


def allow_descriptors(count: int) -> None:
    """Lets this process and its children open `count` connections. Ends the benchmark if it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + SPARE_DESCRIPTORS:
        sys.exit(
            f"{count} streams need {count + SPARE_DESCRIPTORS} descriptors a process; ulimit -Hn is {hard}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + SPARE_DESCRIPTORS), hard))


def _read(pipe: Connection, greetings: Sequence[Greeting]) -> None:
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    places: dict[int, int] = {}
    for place, (address, greeting, marker) in enumerate(greetings):
        opened = socket.create_connection(address)
        opened.sendall(greeting)
        received = b""
        while marker not in received:
            part = opened.recv(READ_BYTES)
            assert part, received
            received += part
        opened.setblocking(False)
        sockets[opened.fileno()] = opened
        places[opened.fileno()] = place
        poll.register(opened.fileno(), select.EPOLLIN)
    poll.register(pipe.fileno(), select.EPOLLIN)
    pipe.send("connected")
    parts: list[list[Part]] | None = None
    is_open = [True] * len(greetings)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == pipe.fileno():
                command = pipe.recv()
                if command == "record":
                    parts = [[] for _ in greetings]
                    pipe.send(None)
                else:
                    pipe.send(Streams(parts or [], is_open))
                    parts = None
                continue
            data = sockets[descriptor].recv(READ_BYTES)
            if not data:
                is_open[places[descriptor]] = False
                poll.unregister(descriptor)
            elif parts is not None:
                parts[places[descriptor]].append((time.perf_counter(), data))
