"""Connections that outlive their request, because they become something else than HTTP.

A request takes some ten kilobytes: gunicorn's parser, the environ, Flask's contexts and the stack of their
calls. A connection that goes on for minutes as a WebSocket needs none of it, so it goes on after all of this
is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Response

Continuation = Callable[[], None]
"""Serves the connection until it ends, and closes it. It raises nothing."""


class Upgraded(StopIteration):
    """The connection goes on without its request. gunicorn lets this pass and closes the socket."""

    def __init__(self, go_on: Continuation) -> None:
        super().__init__("upgraded")
        self.go_on = go_on


class UpgradedResponse(Response):
    """Ends the request of a connection that was upgraded. Nothing is sent."""

    def __init__(self, go_on: Continuation) -> None:
        super().__init__(status=101)
        self._go_on = go_on

    def __call__(self, *_: Any) -> Iterable[bytes]:
        raise Upgraded(self._go_on)
