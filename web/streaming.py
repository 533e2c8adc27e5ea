"""Responses that stream a reader's events, and end when the client leaves or stops reading."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from flask import Response, request

from web.relay import sse, websocket_frames
from web.relay.encoders import ContractEncoder, Encoder
from web.relay.reader import Reader
from web.relay.sse import ChunkPush
from web.serving.disconnects import on_disconnect, request_socket


def sse_response(reader: Reader, encode: Encoder) -> Response:
    """Returns the reader's events as Server-Sent Events. The reader must be fresh."""
    # gunicorn's rule for a response without a Content-Length, by its default protocol.
    is_chunked = request.environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    stream = _until_disconnect(reader, encode, request_socket(), is_chunked=is_chunked)
    return Response(stream, mimetype="text/event-stream", headers=sse.HEADERS)


@contextmanager
def held_until_closed(place: AbstractContextManager[None]) -> Iterator[Callable[[Response], Response]]:
    """Enters `place`, and leaves it when the response that was given to the yielded function is closed.

    If the block raises before it has given a response, `place` is left at its end.
    """
    with ExitStack() as stack:
        stack.enter_context(place)

        def until_closed(response: Response) -> Response:
            response.call_on_close(stack.pop_all().close)
            return response

        yield until_closed


def _until_disconnect(
    reader: Reader, encode: Encoder, client: socket.socket | None, *, is_chunked: bool
) -> Iterator[bytes]:
    with on_disconnect(client, reader.leave), limited_sends(client):
        # gevent's TLS sockets may wait although they are told not to.
        can_push = is_chunked and not isinstance(client, ssl.SSLSocket)
        if client is not None and can_push and isinstance(encode, ContractEncoder):
            reader.sink = ChunkPush(client, reader, encode)
        yield from sse.stream(reader, encode)


@contextmanager
def limited_sends(client: socket.socket | None) -> Iterator[None]:
    """Makes gunicorn's sends raise TimeoutError if the client takes no data for STALL_SECONDS."""
    if client is None:
        yield
        return
    client.settimeout(websocket_frames.STALL_SECONDS)
    try:
        yield
    finally:
        client.settimeout(None)
