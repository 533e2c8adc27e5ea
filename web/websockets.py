"""Views that answer with a WebSocket."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

from simple_websocket import Server

from web.relay import websocket
from web.relay.encoders import ContractEncoder
from web.relay.reader import Reader
from web.relay.websocket import Relay, WebSocket
from web.relay.websocket_frames import FrameSocket
from web.serving.upgrades import continue_with


class NoThread:
    """Replaces simple-websocket's thread for what clients send, because ours only listen."""

    name = ""

    def __init__(self, **_: Any) -> None:
        pass

    def start(self) -> None:
        """Does nothing."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """What a WebSocket sends: a reader's events, while it holds its place."""

    reader: Reader
    encode: ContractEncoder
    place: AbstractContextManager[None]


def relays(view: Callable[..., Relayed]) -> Callable[..., None]:
    """Decorates a view of flask-sock, which says what is sent. An error of the view becomes a close code.

    The WebSocket goes on when its request has ended. flask-sock and simple-websocket shake hands and no more:
    with their greenlet and the request, a connection would take three times the memory.
    """

    @wraps(view)
    def relayed(ws: Server, job_id: str) -> None:
        ws.connected = False  # Otherwise flask-sock would close it when this returns.
        opened = WebSocket(FrameSocket(ws.sock))
        found: Relayed | Exception
        try:
            found = view(job_id=job_id)
        except Exception as error:  # noqa: BLE001 - `_serve` raises it.
            found = error.with_traceback(None)  # It would keep the request.
        continue_with(ws.sock, partial(_serve, opened, job_id, found))

    return relayed


def _serve(ws: WebSocket, job_id: str, found: Relayed | Exception) -> None:
    with websocket.closing(ws, job_id):
        if isinstance(found, Exception):
            raise found
        with found.place:
            Relay(ws, found.reader, found.encode).run()
