"""Reads a job's events over a WebSocket and reconnects: every event once, in order, to the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import websocket

from client.errors import (
    ApiError,
    InvalidRequestError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
    api_error,
)
from client.retry import RetryPolicy, is_final

Event = dict[str, Any]
"""`{"seq", "type": "status" | "token" | "done", ...}`; the server's documentation describes the fields.

The job in `done` lacks `request` and `output`: the text has come already, and `Client.get` has the whole job.
"""

SILENCE_SECONDS = 45.0
"""The server sends something every 15 s at least. After three times that the connection is taken for dead."""

NORMAL = 1000
ERRORS_BY_CLOSE_CODE: dict[int, tuple[type[ApiError], int]] = {
    4400: (InvalidRequestError, 422),
    4401: (UnauthorizedError, 401),
    4404: (NotFoundError, 404),
}
"""Close code -> the error and its HTTP status. After other codes, except for 1000, the client reconnects."""


def without_password(url: httpx.URL | str) -> str:
    """Returns the URL as error messages may show it: it may hold a name and a password for a proxy."""
    return str(httpx.URL(url).copy_with(userinfo=b""))


class _InterruptedError(Exception):
    """The connection broke; the client may reconnect."""


def events(url: str, headers: dict[str, str], after: int, retry: RetryPolicy) -> Iterator[Event]:
    """Yields the events after number `after`. Raises ApiError, and UnreachableError when retrying ends."""
    while True:
        try:
            for event in _connection(f"{url}?done=short&after={after}", headers, retry):
                if event["seq"] <= after:
                    continue
                if event["seq"] > after + 1:
                    raise _InterruptedError(f"event {after + 1} is missing")
                after = event["seq"]
                yield event
            return
        except _InterruptedError as interruption:
            error = UnreachableError(f"{without_password(url)}: {interruption}")
            if not retry.wait_for_retry(error):
                raise error from None


def _connection(url: str, headers: dict[str, str], retry: RetryPolicy) -> Iterator[Event]:
    """Yields the events of one connection, until the server closes it normally."""
    with _connected(url, headers) as socket:
        while True:
            opcode, frame = socket.recv_data_frame(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                _closed(frame.data)
                return
            retry.reset()
            if opcode == websocket.ABNF.OPCODE_TEXT:
                yield json.loads(frame.data)


@contextmanager
def _connected(url: str, headers: dict[str, str]) -> Iterator[Any]:
    """Raises _InterruptedError for failures that may pass, else ApiError or UnreachableError."""
    socket = None
    try:
        socket = websocket.create_connection(
            url, timeout=SILENCE_SECONDS, header=headers, suppress_origin=True
        )
        yield socket
    except websocket.WebSocketBadStatusException as refusal:
        error = api_error(refusal.status_code, refusal.resp_body)
        # A handshake changes nothing, so it is retried after a 500 as well.
        if isinstance(error, UnavailableError) or error.status == 500:
            raise _InterruptedError(str(error)) from None
        raise error from None
    except (OSError, websocket.WebSocketException) as failure:
        if is_final(failure):
            raise UnreachableError(f"{without_password(url)}: {failure}") from None
        raise _InterruptedError(str(failure) or type(failure).__name__) from None
    finally:
        if socket is not None:
            socket.shutdown()  # type: ignore[no-untyped-call]


def _closed(payload: bytes) -> None:
    """Returns if the stream has ended. Raises ApiError, or _InterruptedError to reconnect."""
    code, reason = int.from_bytes(payload[:2], "big"), payload[2:].decode(errors="replace")
    if code == NORMAL:
        return
    if code in ERRORS_BY_CLOSE_CODE:
        kind, status = ERRORS_BY_CLOSE_CODE[code]
        raise kind(status, reason)
    raise _InterruptedError(f"closed with {code} {reason}".rstrip())
