"""Limits on how long the body of a request may take to arrive.

gunicorn waits for a body without a limit. So a client that announces one and sends nothing, or a byte a
minute, would hold a greenlet for as long as it likes, and a server that stops would wait for it.
"""

from __future__ import annotations

import io
import time
from typing import Any

import gevent
from gunicorn.http.errors import ParseException

from tasks.errors import MalformedRequestError
from web.errors import BodyTimeoutError
from web.serving.interrupts import Interruptible

BODY_SECONDS = 20.0
"""How long a body may take to arrive, plus a second for every SLOWEST_BYTES_PER_SECOND of it."""

SLOWEST_BYTES_PER_SECOND = 16 * 1024
"""A body of 1 MiB may take 84 s, which is enough for a slow mobile connection."""

LAST_BODY_SECONDS = 2.0
"""How long a body may take to arrive while the server stops."""


class ClientBody(io.RawIOBase):
    """Wraps the body of a gunicorn request.

    Reading raises BodyTimeoutError, MalformedRequestError (its chunks are malformed, or it ends too soon) and
    the error with which the server interrupts `receiving`. After any of them gunicorn closes the connection,
    because the start of the next request is unknown.
    """

    def __init__(self, request: Any, receiving: Interruptible, *, is_stopping: bool) -> None:
        self._request = request
        self._body = request.body
        self._receiving = receiving
        seconds = LAST_BODY_SECONDS if is_stopping else BODY_SECONDS
        self._ends_at = time.monotonic() + seconds
        self._missing = _announced_length(request)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._read(min(len(buffer), SLOWEST_BYTES_PER_SECOND))
        except Exception:
            self._request.force_close()
            raise
        buffer[: len(data)] = data
        self._ends_at += len(data) / SLOWEST_BYTES_PER_SECOND
        return len(data)

    def _read(self, size: int) -> bytes:
        left = max(0.0, self._ends_at - time.monotonic())
        try:
            with self._receiving.waiting(), gevent.Timeout(left, BodyTimeoutError()):
                data: bytes = self._body.read(size)
        except (OSError, ParseException) as error:
            raise MalformedRequestError(f"the body cannot be read: {error}") from None
        self._missing -= len(data)
        if size and not data and self._missing > 0:
            raise MalformedRequestError(f"the body ends {self._missing} bytes before its Content-Length")
        return data


def _announced_length(request: Any) -> int:
    """Returns the Content-Length, which gunicorn has checked; 0 without one."""
    lengths = [value for name, value in request.headers if name == "CONTENT-LENGTH"]
    return int(lengths[0]) if lengths else 0
