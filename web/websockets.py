"""Views that answer with a WebSocket."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial, wraps

from flask import Response, request

from web.relay import websocket
from web.relay.encoders import ContractEncoder
from web.relay.reader import Reader
from web.relay.websocket import Relay, WebSocket
from web.serving.disconnects import request_socket
from web.serving.upgrades import UpgradedResponse


@dataclass(frozen=True, slots=True)
class Relayed:
    """What a WebSocket sends: a reader's events, while it holds its place."""

    reader: Reader
    encode: ContractEncoder
    place: AbstractContextManager[None]


def accepts_websocket(view: Callable[..., Relayed]) -> Callable[..., Response]:
    """Decorates the view of a stream. The WebSocket is accepted first, so a close code tells an error."""

    @wraps(view)
    def accepted(job_id: str) -> Response:
        client = request_socket()
        if client is None:
            raise RuntimeError("WebSockets need gunicorn")
        ws = WebSocket.accept(client, request.headers)
        found: Relayed | Exception
        try:
            found = view(job_id=job_id)
        except Exception as error:  # noqa: BLE001 - `_serve` raises it.
            found = error.with_traceback(None)  # It would keep the request.
        return UpgradedResponse(partial(_serve, ws, job_id, found))

    return accepted


def _serve(ws: WebSocket, job_id: str, found: Relayed | Exception) -> None:
    with websocket.closing(ws, job_id):
        if isinstance(found, Exception):
            raise found
        with found.place:
            Relay(ws, found.reader, found.encode).run()
