"""Sends to a client without waiting for it, from the hub's greenlet."""

from __future__ import annotations

import select
import socket
from typing import Any

from gevent.monkey import get_original

MAX_PUSHED_BYTES = 16 * 1024
"""More than this is left to the reader's greenlet, which may wait."""

UNCHECKED_BYTES = 8 * 1024
"""How much is sent before the socket is asked again whether it is writable. The kernel needs up to three
times as much for small frames, which is less than a third of its buffer."""

FRAME_OVERHEAD_BYTES = 1024
"""A frame of a few bytes takes about this much of the kernel's buffer."""


class PushSocket:
    """Wraps a gevent socket.

    The hub's greenlet calls `push`, only while the greenlet of the socket's reader waits for news.

    has_rest: whether `push` could send a part only. The reader's greenlet has to send the rest.
    """

    __slots__ = ("_client", "_poll", "_rest", "_unchecked")

    def __init__(self, client: socket.socket) -> None:
        self._client: Any = client
        self._rest = b""
        self._unchecked = 0
        # gevent's poll would run the event loop once for each frame.
        self._poll: select.poll = get_original("select", "poll")()
        self._poll.register(client.fileno(), select.POLLOUT)

    @property
    def has_rest(self) -> bool:
        return bool(self._rest)

    def push(self, data: bytes) -> bool:
        """Sends data without waiting. Returns False, and sends nothing, if that is not possible."""
        if self._rest or len(data) > MAX_PUSHED_BYTES:
            return False
        if self._unchecked <= 0:
            if not self.is_writable():
                return False
            self._unchecked = UNCHECKED_BYTES
        self._unchecked -= len(data) + FRAME_OVERHEAD_BYTES
        try:
            sent: int = self._client.send(data, 0, 0.0)  # A timeout of 0 s, whatever the socket has.
        except OSError:  # The reader's greenlet will meet it again.
            return False
        if sent < len(data):
            self._rest = data[sent:]
        return sent > 0

    def take_rest(self) -> bytes:
        """Returns what is to be sent before anything else."""
        rest, self._rest = self._rest, b""
        self._unchecked = 0
        return rest

    def is_writable(self) -> bool:
        return bool(self._poll.poll(0))
