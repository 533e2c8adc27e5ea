"""Sends a reader's events over a WebSocket, and closes it with a code.

It does without a greenlet for what clients send, because they only listen: whatever arrives wakes the
reader's greenlet. The WebSocket takes no more of the request than its socket, which keeps it small.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import gevent
from redis.exceptions import RedisError
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from tasks.connection import is_away
from tasks.errors import InvalidRequestError, JobNotFoundError, TokenrelayError, UnauthorizedError
from web.errors import GoingAwayError, TooManyStreamsError
from web.relay.encoders import ContractEncoder
from web.relay.events import Batch, Event
from web.relay.pushing import MAX_PUSHED_BYTES
from web.relay.reader import Reader
from web.relay.websocket_frames import FrameSocket, StalledError

MAX_MESSAGE_BYTES = 4096
"""Messages of clients are dropped. A message that is longer than this closes the socket (1009)."""

BYTES_PER_SEND = MAX_PUSHED_BYTES
"""Frames are sent together up to this size, which a writable socket takes whole."""

CLOSE_SECONDS = 2.0
"""How long a client may take to answer the close frame. After that the connection is closed."""

PING = b"\x89\x00"
"""A ping without payload."""

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


class WebSocket:
    """The server's end of a WebSocket whose client only listens, from the handshake on."""

    __slots__ = ("_protocol", "_received_bytes", "is_open", "socket")

    def __init__(self, client: FrameSocket) -> None:
        self.socket = client
        self.is_open = True
        self._protocol: Connection | None = None
        self._received_bytes = 0

    def receive(self) -> None:
        """Handles what has arrived: answers pings, drops messages and notices that the client leaves."""
        while self.is_open and (data := self.socket.recv()) is not None:
            if data:
                self._handle(data)
                gevent.sleep(0)  # A client that never stops sending would keep all others waiting.
            else:
                self.is_open = False

    def close(self, code: int, reason: str | None = None) -> None:
        """Closes the WebSocket and waits for the client's close frame. Otherwise it might lose unread events.

        Raises OSError.
        """
        if not self.is_open:
            return
        protocol = self._connection()
        self.socket.send(protocol.send(CloseConnection(code, reason)))
        ends_at = time.monotonic() + CLOSE_SECONDS
        while protocol.state is not ConnectionState.CLOSED and (left := ends_at - time.monotonic()) > 0:
            data = self.socket.recv()
            if data is None:
                self.socket.wait_readable(left)
            elif not data:
                return
            else:
                protocol.receive_data(data)
                for _ in protocol.events():
                    pass

    def _handle(self, data: bytes) -> None:
        protocol = self._connection()
        protocol.receive_data(data)
        answer = b""
        for event in protocol.events():
            if isinstance(event, CloseConnection):
                answer += protocol.send(event.response())
                self.is_open = False
            elif isinstance(event, Ping):
                answer += protocol.send(event.response())
            elif isinstance(event, TextMessage | BytesMessage):
                self._received_bytes += len(event.data)
                if self._received_bytes > MAX_MESSAGE_BYTES:
                    answer += protocol.send(
                        CloseConnection(CloseReason.MESSAGE_TOO_BIG, "Message is too big")
                    )
                    self.is_open = False
                elif event.message_finished:
                    self._received_bytes = 0
            if not self.is_open:
                break
        if answer:
            self.socket.send(answer)

    def _connection(self) -> Connection:
        """Returns the protocol's state, which nobody needs before the client sends something."""
        if self._protocol is None:
            self._protocol = Connection(ConnectionType.SERVER)
        return self._protocol


class Relay:
    """Sends a reader's events, each encoded as a frame."""

    __slots__ = ("_encode", "_has_arrived", "_reader", "_ws")

    def __init__(self, ws: WebSocket, reader: Reader, encode: ContractEncoder) -> None:
        self._ws = ws
        self._reader = reader
        self._encode = encode
        self._has_arrived = False
        reader.sink = self

    def run(self) -> None:
        """Returns when the reader ends or the client leaves.

        Raises what iterating over the reader raises, StalledError and OSError.
        """
        self._ws.socket.watch(self._arrived)
        for events in self._reader:
            self._send(events)
            # The next ones may take minutes, and these may be a page of the log.
            del events

    def _send(self, events: list[Event]) -> None:
        if not events:
            self._ws.socket.send(PING)
        for frames in _bundled(map(self._encode, events)):
            if self._ws.is_open:
                self._ws.socket.send(frames)
                self.attend()

    def push(self, batch: Batch) -> bool:
        try:
            frames = self._encode.batch(batch)
        except ValueError:  # The reader's greenlet will meet it again. Here it would end the hub.
            return False
        if not self._ws.socket.push(frames):
            return False
        if self._ws.socket.has_rest:
            self._reader.wake()
        return True

    def attend(self) -> None:
        if self._ws.socket.has_rest:
            self._ws.socket.send()
        if self._has_arrived:
            self._has_arrived = False
            self._ws.receive()
            if self._ws.is_open:
                self._ws.socket.watch(self._arrived)
            else:
                self._reader.leave()

    def _arrived(self) -> None:
        self._has_arrived = True
        self._reader.wake()


@contextmanager
def closing(ws: WebSocket, job_id: str) -> Iterator[None]:
    """Closes the WebSocket with a code that says how the block ended."""
    try:
        with (
            suppress(OSError, LocalProtocolError),
            _closing(ws, job_id),
        ):  # The client has left, or is leaving.
            yield
    finally:
        ws.socket.close()


@contextmanager
def _closing(ws: WebSocket, job_id: str) -> Iterator[None]:
    try:
        yield
        ws.close(NORMAL)
    except tuple(CLOSE_CODES) as error:
        ws.close(*_close_code(error))
    except RedisError as error:
        if is_away(error):  # For the client it is like a server that stops: it connects again with `after`.
            ws.close(GOING_AWAY, TRY_AGAIN)
        else:
            logger.exception("the stream of %s failed", job_id)
            ws.close(INTERNAL_ERROR, "an unexpected error; the server's log has the details")
    except (OSError, LocalProtocolError):
        raise
    except Exception:
        logger.exception("the stream of %s failed", job_id)
        ws.close(INTERNAL_ERROR, "an unexpected error; the server's log has the details")


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
