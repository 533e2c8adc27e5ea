"""Text frames, and the socket of a WebSocket, which sends whole frames only.

A send waits until the socket is writable, and on Linux it is while a third of its buffer is free. So a small
frame is sent in one piece, and even when a reader has stopped reading, the buffer has room for the bytes of
the close frame.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gevent import get_hub
from gevent.socket import wait_read, wait_write

from web.relay.pushing import PushSocket

FINAL_TEXT = b"\x81"
"""RFC 6455, 5.2: a text message in one frame."""

STALL_SECONDS = 20.0
"""A reader whose buffer takes nothing for this long is too slow."""

SEND_BUFFER_BYTES = 64 * 1024
"""How much the kernel buffers for a reader (Linux doubles it). The rest stays in the log, for all readers."""

RECEIVE_BYTES = 4096
READABLE = 1
"""libev's EV_READ."""

_SHORT_LENGTHS = [bytes([length]) for length in range(126)]


def text_message(_seq: int, _type: str, data: str) -> bytes:
    """Returns a WebSocket frame. A server's frames are not masked, so all readers get the same bytes."""
    payload = data.encode()
    if len(payload) < 126:
        length = _SHORT_LENGTHS[len(payload)]
    elif len(payload) < 1 << 16:
        length = b"\x7e" + len(payload).to_bytes(2)
    else:
        length = b"\x7f" + len(payload).to_bytes(8)
    return FINAL_TEXT + length + payload


class StalledError(OSError):
    """The reader takes no more data."""


class FrameSocket(PushSocket):
    """Wraps a gevent socket. One greenlet uses it, and the hub's greenlet calls `push` while that one waits.

    `send` also sends the rest that `push` has left.
    """

    __slots__ = ("_file", "_is_mid_frame", "_is_stalled", "_watcher")

    def __init__(self, client: socket.socket) -> None:
        super().__init__(client)
        # Keeps the connection open when gunicorn, whose request ends, closes the socket.
        self._file = client.makefile("rb", buffering=0)
        self._is_stalled = False
        self._is_mid_frame = False
        self._watcher: Any = None
        client.settimeout(0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if client.family in (socket.AF_INET, socket.AF_INET6):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, frames: bytes = b"") -> None:
        """Sends the rest and all of `frames`, which are complete. Raises StalledError and OSError."""
        if self._is_stalled:
            self._send_last(frames)
            return
        self._is_mid_frame = self.has_rest
        rest = memoryview(self.take_rest() + frames)
        while rest:
            self._wait_writable()
            with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                sent = self._client.send(rest)
                rest = rest[sent:]
                self._is_mid_frame = len(rest) > 0

    def recv(self) -> bytes | None:
        """Returns what has arrived: None for nothing, and no bytes at the end. Raises OSError."""
        try:
            received: bytes = self._client.recv(RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        return received

    def wait_readable(self, seconds: float) -> None:
        """Waits until there is something to receive. Raises TimeoutError."""
        wait_read(self._client.fileno(), seconds)

    def watch(self, call: Callable[[], None]) -> None:
        """Calls `call` in gevent's own greenlet, once, when there is something to receive."""
        if self._watcher is None:
            self._watcher = get_hub().loop.io(self._client.fileno(), READABLE)

        def readable() -> None:
            self._watcher.stop()
            call()

        self._watcher.start(readable)

    def close(self) -> None:
        """Ends the connection."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self._client.close()

    def _wait_writable(self) -> None:
        if not self.is_writable():
            error = StalledError(f"the reader has taken nothing for {STALL_SECONDS} s")
            try:
                wait_write(self._client.fileno(), STALL_SECONDS, error)
            except StalledError:
                self._is_stalled = True
                raise

    def _send_last(self, close_frame: bytes) -> None:
        """Sends the close frame into the rest of the buffer, without waiting for the reader."""
        if not self._is_mid_frame:
            self._client.send(close_frame)
