"""Server-Sent Events out of a reader."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

from flask import Response

from tasks.errors import JobNotFoundError
from web import wire
from web.departure import on_departure, request_socket
from web.reader import GoingAwayError, Reader
from web.render import Event

KEEP_ALIVE_COMMENT = b": keep-alive\n\n"

SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""No cache keeps a stream, and nginx passes it on as it comes."""

Render = Callable[[Sequence[Event]], bytes]


def sse_response(reader: Reader, render: Render) -> Response:
    """A stream of `render`ed events, with keep-alives; it ends with the reader."""
    stream = _stream(reader, render, request_socket())
    return Response(stream, mimetype="text/event-stream", headers=SSE_HEADERS)


@contextmanager
def held_until_closed(place: AbstractContextManager[None]) -> Iterator[Callable[[Response], Response]]:
    """Enter `place`, and leave it when the response that was given to the yielded function is closed.

    Where the block gives it none, because it raises, `place` is left at its end.
    """
    with ExitStack() as stack:
        stack.enter_context(place)

        def until_closed(response: Response) -> Response:
            response.call_on_close(stack.pop_all().close)
            return response

        yield until_closed


def _stream(reader: Reader, render: Render, client: socket.socket | None) -> Iterator[bytes]:
    with on_departure(client, reader.leave), _impatient(client):
        yield KEEP_ALIVE_COMMENT  # Sends the headers, so that a client knows it is connected.
        # SSE knows no close code; the client comes again with Last-Event-ID and is told.
        with suppress(GoingAwayError, JobNotFoundError):
            for events in reader:
                yield render(events) if events else KEEP_ALIVE_COMMENT


@contextmanager
def _impatient(client: socket.socket | None) -> Iterator[None]:
    """A reader that takes nothing must not stay for ever: gunicorn's sends raise TimeoutError."""
    if client is None:
        yield
        return
    client.settimeout(wire.STALL_SECONDS)
    try:
        yield
    finally:
        client.settimeout(None)
