"""Server-Sent Events out of a reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from tasks.errors import JobNotFoundError
from web.errors import GoingAwayError
from web.relay.events import Event
from web.relay.reader import Reader

KEEP_ALIVE_COMMENT = b": keep-alive\n\n"

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""No cache keeps a stream, and nginx passes it on as it comes."""

Render = Callable[[Sequence[Event]], bytes]


def stream(reader: Reader, render: Render) -> Iterator[bytes]:
    """Yields the reader's events as `render` writes them, with keep-alives; it ends with the reader."""
    yield KEEP_ALIVE_COMMENT  # Sends the headers, so that a client knows it is connected.
    # SSE has no close codes; the client comes again with Last-Event-ID and is told.
    with suppress(GoingAwayError, JobNotFoundError):
        for events in reader:
            yield render(events) if events else KEEP_ALIVE_COMMENT
