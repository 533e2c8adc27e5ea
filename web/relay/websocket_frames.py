"""Text frames and the socket of a WebSocket, with fixes for simple-websocket.

simple-websocket 1.1.0 calls `sock.send`, which may send only a part (its issue 45: a slow reader got a
corrupted frame), from two greenlets. Here each send is complete and locked, and waits until the socket is
writable. On Linux, a socket is writable while a third of its buffer is free. So a small frame is sent in one
piece, and even when a reader has stopped reading, the buffer has room for the bytes of the close frame.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from gevent.monkey import get_original
from gevent.socket import wait_write

FINAL_TEXT = b"\x81"
"""RFC 6455, 5.2: a text message in one frame."""

_SHORT_LENGTHS = [bytes([length]) for length in range(126)]

STALL_SECONDS = 20.0
"""A reader whose buffer takes nothing for this long is too slow."""

SEND_BUFFER_BYTES = 64 * 1024
"""How much the kernel buffers for a reader (Linux doubles it). The rest stays in the log, for all readers."""


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


class FrameSocket:
    """Wraps a gevent socket, and sends complete frames only."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._is_stalled = False
        self._is_mid_frame = False
        self._is_closed = False
        self._on_close: Callable[[], None] | None = None
        # gevent's poll would run the event loop once for each frame.
        self._poll: select.poll = get_original("select", "poll")()
        self._poll.register(client.fileno(), select.POLLOUT)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if client.family in (socket.AF_INET, socket.AF_INET6):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, frames: bytes) -> int:
        """Sends all of `frames`, which are one or more complete frames. Raises StalledError and OSError."""
        with self._lock:
            if self._is_stalled:
                self._send_last(frames)
            else:
                self._send_all(memoryview(frames))
        return len(frames)

    def recv(self, size: int) -> bytes:
        return self._client.recv(size)

    def close(self) -> None:
        """Ends the connection. simple-websocket's receiving greenlet calls this when it ends, for any reason.

        Closing the descriptor stays gunicorn's task: another greenlet may still wait here to write to it.
        """
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)
        self._is_closed = True
        if self._on_close:
            self._on_close()

    def when_closed(self, call: Callable[[], None]) -> None:
        """Calls `call` when the connection ends, or at once where it has ended already."""
        self._on_close = call
        if self._is_closed:
            call()

    def _send_all(self, rest: memoryview) -> None:
        while rest:
            self._wait_writable()
            sent = self._client.send(rest)
            rest = rest[sent:]
            self._is_mid_frame = len(rest) > 0

    def _wait_writable(self) -> None:
        if not self._poll.poll(0):
            error = StalledError(f"the reader has taken nothing for {STALL_SECONDS} s")
            try:
                wait_write(self._client.fileno(), STALL_SECONDS, error)
            except StalledError:
                self._is_stalled = True
                raise

    def _send_last(self, close_frame: bytes) -> None:
        """Sends the close frame into the rest of the buffer, without waiting for the reader."""
        if not self._is_mid_frame:
            self._client.settimeout(0)
            self._client.send(close_frame)
