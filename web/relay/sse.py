"""Encodes a reader's events as Server-Sent Events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from tasks.errors import JobNotFoundError
from web.errors import GoingAwayError
from web.relay.encoders import Encoder
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
