"""Sends a reader's events over a WebSocket, and closes it with a code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps

from redis.exceptions import RedisError
from simple_websocket import ConnectionClosed, Server
from wsproto.events import Ping
from wsproto.utilities import LocalProtocolError

from tasks.connection import is_away
from tasks.errors import InvalidRequestError, JobNotFoundError, TokenrelayError, UnauthorizedError
from web.errors import GoingAwayError, TooManyStreamsError
from web.relay.encoders import Encoder
from web.relay.reader import Reader
from web.relay.websocket_frames import StalledError

MAX_MESSAGE_BYTES = 4096
"""Messages of clients are dropped. A message that is longer than this closes the socket (1009)."""

BYTES_PER_SEND = 16 * 1024
"""Frames are sent together up to this size, which a writable socket takes whole."""

CLOSE_SECONDS = 2.0
"""How long a client may take to answer the close frame. After that the connection is closed."""

NORMAL, GOING_AWAY, POLICY_VIOLATION, INTERNAL_ERROR = 1000, 1001, 1008, 1011
CLOSE_CODES: dict[type[Exception], int] = {
    InvalidRequestError: 4400,
    UnauthorizedError: 4401,
    JobNotFoundError: 4404,
    TooManyStreamsError: 4429,
    GoingAwayError: GOING_AWAY,
    StalledError: POLICY_VIOLATION,
}

MAX_REASON_CHARACTERS = 100
"""A close frame has room for 123 bytes."""

TRY_AGAIN = "try again, with after"

logger = logging.getLogger(__name__)


def closing(view: Callable[..., None]) -> Callable[..., None]:
    """Decorates the view of a stream: closes the WebSocket with a code that says how it ended."""

    @wraps(view)
    def closed(ws: Server, job_id: str) -> None:
        with _closing(ws, job_id):
            view(ws, job_id=job_id)

    return closed


@contextmanager
def _closing(ws: Server, job_id: str) -> Iterator[None]:
    ws.input_buffer = _Discarded()
    try:
        yield
        _close(ws, NORMAL)
    except tuple(CLOSE_CODES) as error:
        _close(ws, *_close_code(error))
    except RedisError as error:
        if is_away(error):  # For the client it is like a server that stops: it connects again with `after`.
            _close(ws, GOING_AWAY, TRY_AGAIN)
        else:
            logger.exception("the stream of %s failed", job_id)
            _close(ws, INTERNAL_ERROR, "an unexpected error; the server's log has the details")
    except (ConnectionClosed, LocalProtocolError, OSError):
        pass  # The client has left, or is leaving.


def relay(ws: Server, reader: Reader, encode: Encoder) -> None:
    """Sends the reader's events, each encoded as a frame, until the reader ends or the client leaves.

    Raises what iterating over the reader raises, StalledError and OSError.
    """
    ws.sock.when_closed(reader.leave)
    for events in reader:
        if not ws.connected:
            return
        if not events:
            ws.sock.send(ws.ws.send(Ping()))
        for frames in _bundled(map(encode, events)):
            if not ws.connected:
                return
            ws.sock.send(frames)


def _bundled(frames: Iterable[bytes]) -> Iterator[bytes]:
    bundle: list[bytes] = []
    size = 0
    for frame in frames:
        if bundle and size + len(frame) > BYTES_PER_SEND:
            yield b"".join(bundle)
            bundle, size = [], 0
        bundle.append(frame)
        size += len(frame)
    if bundle:
        yield b"".join(bundle)


def _close_code(error: Exception) -> tuple[int, str]:
    code = next(code for kind, code in CLOSE_CODES.items() if isinstance(error, kind))
    if isinstance(error, TokenrelayError):
        return code, error.detail[:MAX_REASON_CHARACTERS]
    return code, "reader too slow" if code == POLICY_VIOLATION else TRY_AGAIN


def _close(ws: Server, code: int, reason: str | None = None) -> None:
    """Closes the WebSocket and waits for the client's close frame. Otherwise it might lose unread events."""
    try:
        ws.close(code, reason)
    except (ConnectionClosed, LocalProtocolError, OSError):
        return
    ws.thread.join(CLOSE_SECONDS)


class _Discarded(list[object]):
    """simple-websocket's input buffer, for a socket whose messages nobody reads."""

    def append(self, _: object) -> None:
        pass
