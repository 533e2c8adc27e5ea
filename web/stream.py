"""A job's events as Server-Sent Events and over a WebSocket."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import urlsplit

from flask import Blueprint, Response, request
from flask_sock import Sock
from redis.exceptions import RedisError
from simple_websocket import ConnectionClosed, Server
from werkzeug.routing.exceptions import WebsocketMismatch
from wsproto.events import Ping
from wsproto.utilities import LocalProtocolError

from tasks.connection import is_away
from tasks.errors import (
    InvalidRequestError,
    JobNotFoundError,
    TokenrelayError,
    UnauthorizedError,
)
from web import auth, schema
from web.departure import request_socket
from web.errors import ForbiddenOriginError, TooManyStreamsError
from web.reader import GoingAwayError, Reader
from web.render import Event
from web.services import services
from web.sse import SSE_HEADERS, held_until_closed, sse_response
from web.wait import make_reader
from web.wire import StalledError, Wire

MAX_MESSAGE_BYTES = 4096
"""Clients have nothing to say on this socket; what they say is dropped, and more than this ends it (1009)."""

BYTES_PER_SEND = 16 * 1024
"""Frames are sent together up to this size, which a writable socket takes whole."""

CLOSE_SECONDS = 2.0
"""How long a client may take to answer the close frame; then the connection is cut."""

NORMAL, GOING_AWAY, POLICY_VIOLATION, INTERNAL_ERROR = 1000, 1001, 1008, 1011
CLOSE_CODES: dict[type[Exception], int] = {
    InvalidRequestError: 4400,
    UnauthorizedError: 4401,
    JobNotFoundError: 4404,
    TooManyStreamsError: 4429,
    GoingAwayError: GOING_AWAY,
    StalledError: POLICY_VIOLATION,
}

TRY_AGAIN = "try again, with after"

logger = logging.getLogger(__name__)

bp = Blueprint("stream", __name__)
sock = Sock()


@bp.get("/v1/jobs/<job_id>/events")
def events(job_id: str) -> Response:
    owner = auth.readable_owner(job_id)
    after = schema.resume_after()
    is_done_short = schema.wants_short_done()
    header = services().log.header(job_id, owner)
    if header.has_nothing_after(after):
        return Response(status=204)
    if request.method == "HEAD":
        return Response(mimetype="text/event-stream", headers=SSE_HEADERS)
    with held_until_closed(services().streams.hold(header.owner)) as until_closed:
        reader = make_reader(job_id, after=after, is_done_short=is_done_short)
        return until_closed(sse_response(reader, _as_sse))


def _as_sse(events: Sequence[Event]) -> bytes:
    return b"".join(event.sse for event in events)


@bp.before_request
def prepare_handshake() -> None:
    """What must happen before simple-websocket shakes hands. Raises ForbiddenOriginError."""
    if request.endpoint != "stream.stream":
        return
    _refuse_foreign_page()
    # permessage-deflate costs 2.5 times the CPU and 96 KB a connection instead of 4.
    request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
    client = request_socket()
    if client is not None:
        request.environ["gunicorn.socket"] = Wire(client)


@bp.before_app_request
def explain_refusal() -> None:
    """Tells a foreign page why, when it asks by plain HTTP: of a handshake it only learns that it failed."""
    if isinstance(request.routing_exception, WebsocketMismatch):
        _refuse_foreign_page()


def _refuse_foreign_page() -> None:
    """A WebSocket is not bound by the same-origin policy, so without keys any page could read the jobs.

    Programs send no Origin. With API keys a page that has a key or a ticket may come from anywhere.
    """
    origin = request.headers.get("Origin")
    if origin is None or services().settings.api_keys:
        return
    if _host_of(origin) != request.host.lower():
        raise ForbiddenOriginError


def _host_of(origin: str) -> str | None:
    """None where there is none to be found, as in `http://[`."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


@sock.route("/v1/jobs/<job_id>/stream", bp=bp)  # type: ignore[untyped-decorator]
def stream(ws: Server, job_id: str) -> None:
    ws.input_buffer = _Discarded()
    try:
        owner, reader = _open(job_id)
        with services().streams.hold(owner):
            ws.sock.when_closed(reader.leave)
            _relay(ws, reader)
        _close(ws, NORMAL)
    except tuple(CLOSE_CODES) as error:
        _close(ws, *_close_code(error))
    except RedisError as error:
        if is_away(error):  # To a client it is the same as a server that ends: come again, with `after`.
            _close(ws, GOING_AWAY, TRY_AGAIN)
        else:
            logger.exception("the stream of %s failed", job_id)
            _close(ws, INTERNAL_ERROR, "an unexpected error; the server's log has the details")
    except (ConnectionClosed, LocalProtocolError, OSError):
        pass  # The client has left, or is about to.


def _open(job_id: str) -> tuple[str, Reader]:
    """The job's owner, who answers for tickets as well, and a reader.

    Raises TokenrelayError and redis.exceptions.RedisError where the request is wrong or cannot be met.
    """
    owner = auth.readable_owner(job_id)
    after = schema.resume_after()
    is_done_short = schema.wants_short_done()
    header = services().log.header(job_id, owner)
    return header.owner, make_reader(job_id, after=after, is_done_short=is_done_short)


def _relay(ws: Server, reader: Reader) -> None:
    for events in reader:
        if not ws.connected:
            return
        if not events:
            ws.sock.send(ws.ws.send(Ping()))
        for frames in _bundled(event.frame for event in events):
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
        return code, error.detail[:100]  # A close frame has room for 123 bytes.
    return code, "reader too slow" if code == POLICY_VIOLATION else TRY_AGAIN


def _close(ws: Server, code: int, reason: str | None = None) -> None:
    """Close, and wait for the client to agree: cut off at once it might lose what it has not read yet."""
    try:
        ws.close(code, reason)
    except (ConnectionClosed, LocalProtocolError, OSError):
        return
    ws.thread.join(CLOSE_SECONDS)


class _Discarded(list[object]):
    """simple-websocket's input buffer, for a socket whose messages nobody reads."""

    def append(self, _: object) -> None:
        pass
