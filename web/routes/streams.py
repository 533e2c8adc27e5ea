"""A job's events as Server-Sent Events and over a WebSocket."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Blueprint, Response, request
from flask_sock import Sock
from werkzeug.routing.exceptions import WebsocketMismatch

from web.answers import EventBody
from web.auth import ReadableOwner
from web.endpoints import EVENT_STREAM, NO_JOB, TOO_MANY_STREAMS, endpoint
from web.errors import ForbiddenOriginError, NotAWebSocketError
from web.parameters import StreamParameters
from web.relay import sse
from web.relay.encoders import ContractEncoder
from web.relay.websocket_frames import text_message
from web.services import base_url, services
from web.serving.disconnects import request_socket
from web.streaming import held_until_closed, sse_response
from web.waiting import make_reader
from web.websockets import Relayed, relays

bp = Blueprint("streams", __name__)
sock = Sock()


@bp.get("/v1/jobs/<job_id>/events")
@endpoint(
    "The job's events as Server-Sent Events",
    {
        200: "events, to the end of the job",
        204: "it has ended, with nothing after that",
        **NO_JOB,
        **TOO_MANY_STREAMS,
    },
    gives=EventBody,
    content=EVENT_STREAM,
)
def events(job_id: str, owner: ReadableOwner, query: StreamParameters) -> Response:
    header = services().log.header(job_id, owner)
    if header.has_nothing_after(query.after):
        return Response(status=204)
    if request.method == "HEAD":
        return Response(mimetype=EVENT_STREAM, headers=sse.HEADERS)
    with held_until_closed(services().streams.hold(header.owner)) as until_closed:
        encode = ContractEncoder(sse.message, base_url(), is_done_short=query.done == "short")
        return until_closed(sse_response(make_reader(job_id, after=query.after), encode))


@sock.route("/v1/jobs/<job_id>/stream", bp=bp)  # type: ignore[untyped-decorator]
@relays
@endpoint(
    "The same events over a WebSocket, one JSON text frame each",
    {
        101: "closes with 1000 after `done`, 4400 bad `after` or `done`, 4401 not authorised, 4404 no "
        "such job, 4429 too many streams, 1001 server going away, 1008 reader too slow",
        400: "not a WebSocket handshake",
        403: "a page from elsewhere, while the server has no API keys",
    },
    gives=EventBody,
)
def stream(job_id: str, owner: ReadableOwner, query: StreamParameters) -> Relayed:
    header = services().log.header(job_id, owner)
    # The cap counts the job's owner: with a ticket, the request itself has none.
    place = services().streams.hold(header.owner)
    encode = ContractEncoder(text_message, base_url(), is_done_short=query.done == "short")
    return Relayed(make_reader(job_id, after=query.after), encode, place)


@bp.before_request
def prepare_handshake() -> None:
    """Does what must happen before simple-websocket shakes hands. Raises ForbiddenOriginError."""
    if request.endpoint != "streams.stream":
        return
    _refuse_foreign_page()
    if request_socket() is None:
        raise RuntimeError("WebSockets need gunicorn")
    # permessage-deflate costs 2.5 times the CPU, and 96 KB a connection instead of 4.
    request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)


@bp.before_app_request
def explain_refusal() -> None:
    """Tells who asks for the WebSocket by plain HTTP why that fails.

    A page of another origin does so too, because browsers only tell a page that a handshake has failed.
    Raises ForbiddenOriginError and NotAWebSocketError.
    """
    if isinstance(request.routing_exception, WebsocketMismatch):
        _refuse_foreign_page()
        if not request.environ.get("HTTP_UPGRADE"):
            raise NotAWebSocketError


def _refuse_foreign_page() -> None:
    """Raises ForbiddenOriginError if a page of another host asks and there are no API keys.

    The same-origin policy does not bind WebSockets, so without keys any page could read the jobs. Programs
    send no Origin. With API keys, a page that has a key or a ticket may come from anywhere.
    """
    origin = request.headers.get("Origin")
    if origin is None or services().settings.api_keys:
        return
    if _host_of(origin) != request.host.lower():
        raise ForbiddenOriginError


def _host_of(origin: str) -> str | None:
    """Returns an origin's host; None if it has none, as in `http://[`."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
