"""A job's events as Server-Sent Events and over a WebSocket."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Blueprint, Response, request
from flask_sock import Sock
from simple_websocket import Server
from werkzeug.routing.exceptions import WebsocketMismatch

from web import auth, parameters
from web.errors import ForbiddenOriginError
from web.relay import sse, websocket
from web.relay.encoders import ContractEncoder
from web.relay.websocket_frames import FrameSocket, text_message
from web.services import base_url, services
from web.serving.disconnects import request_socket
from web.streaming import held_until_closed, sse_response
from web.waiting import make_reader

bp = Blueprint("streams", __name__)
sock = Sock()


@bp.get("/v1/jobs/<job_id>/events")
def events(job_id: str) -> Response:
    owner = auth.readable_owner(job_id)
    after = parameters.resume_after()
    is_done_short = parameters.wants_short_done()
    header = services().log.header(job_id, owner)
    if header.has_nothing_after(after):
        return Response(status=204)
    if request.method == "HEAD":
        return Response(mimetype="text/event-stream", headers=sse.HEADERS)
    with held_until_closed(services().streams.hold(header.owner)) as until_closed:
        encode = ContractEncoder(sse.message, base_url(), is_done_short=is_done_short)
        return until_closed(sse_response(make_reader(job_id, after=after), encode))


@sock.route("/v1/jobs/<job_id>/stream", bp=bp)  # type: ignore[untyped-decorator]
def stream(ws: Server, job_id: str) -> None:
    with websocket.closing(ws, job_id):
        owner = auth.readable_owner(job_id)
        after = parameters.resume_after()
        is_done_short = parameters.wants_short_done()
        header = services().log.header(job_id, owner)
        # The cap counts the job's owner: with a ticket, the request itself has none.
        with services().streams.hold(header.owner):
            encode = ContractEncoder(text_message, base_url(), is_done_short=is_done_short)
            websocket.relay(ws, make_reader(job_id, after=after), encode)


@bp.before_request
def prepare_handshake() -> None:
    """Does what must happen before simple-websocket shakes hands. Raises ForbiddenOriginError."""
    if request.endpoint != "streams.stream":
        return
    _refuse_foreign_page()
    # permessage-deflate costs 2.5 times the CPU, and 96 KB a connection instead of 4.
    request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
    client = request_socket()
    if client is not None:
        request.environ["gunicorn.socket"] = FrameSocket(client)


@bp.before_app_request
def explain_refusal() -> None:
    """Tells a foreign page why it is refused when it asks by plain HTTP.

    Of a handshake it only learns that it failed. Raises ForbiddenOriginError.
    """
    if isinstance(request.routing_exception, WebsocketMismatch):
        _refuse_foreign_page()


def _refuse_foreign_page() -> None:
    """Raises ForbiddenOriginError where a page of another host asks and there are no API keys.

    The same-origin policy does not bind WebSockets, so without keys any page could read the jobs. Programs
    send no Origin. With API keys, a page that has a key or a ticket may come from anywhere.
    """
    origin = request.headers.get("Origin")
    if origin is None or services().settings.api_keys:
        return
    if _host_of(origin) != request.host.lower():
        raise ForbiddenOriginError


def _host_of(origin: str) -> str | None:
    """Returns None where there is no host, as in `http://[`."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
