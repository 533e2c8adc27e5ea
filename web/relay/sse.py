"""Encodes a reader's events as Server-Sent Events."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

from tasks.errors import JobNotFoundError
from web.errors import GoingAwayError
from web.relay.encoders import ContractEncoder, Encoder
from web.relay.events import Batch
from web.relay.pushing import PushSocket
from web.relay.reader import Reader

KEEP_ALIVE_COMMENT = b": keep-alive\n\n"

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Caches do not store the stream, and nginx passes it on without buffering."""


def message(seq: int, kind: str, data: str) -> bytes:
    """Returns an event with its number and its type; `data` has no line ends."""
    return f"id: {seq}\nevent: {kind}\ndata: {data}\n\n".encode()


def stream(reader: Reader, encode: Encoder) -> Iterator[bytes]:
    """Yields the reader's events, encoded, and keep-alives. It ends with the reader."""
    yield KEEP_ALIVE_COMMENT  # Sends the headers, so that a client knows it is connected.
    # SSE has no close codes; the client connects again with Last-Event-ID and gets the error then.
    with suppress(GoingAwayError, JobNotFoundError):
        for events in reader:
            yield b"".join(map(encode, events)) if events else KEEP_ALIVE_COMMENT
            del events  # The next ones may take minutes.


class ChunkPush:
    """Writes batches to the client's socket as chunks of HTTP/1.1, between those that the server writes.

    client: in a request whose response is chunked. Its timeout limits the wait for a slow reader.
    """

    __slots__ = ("_client", "_encode", "_reader", "_socket")

    def __init__(self, client: socket.socket, reader: Reader, encode: ContractEncoder) -> None:
        self._client = client
        self._socket = PushSocket(client)
        self._reader = reader
        self._encode = encode

    def push(self, batch: Batch) -> bool:
        try:
            data = self._encode.batch(batch)
        except ValueError:  # The reader's greenlet will meet it again. Here it would end the hub.
            return False
        if not self._socket.push(b"%X\r\n%b\r\n" % (len(data), data)):
            return False
        if self._socket.has_rest:
            self._reader.wake()
        return True

    def attend(self) -> None:
        """Sends the rest of a chunk. Raises OSError."""
        if self._socket.has_rest:
            self._client.sendall(self._socket.take_rest())
