"""Connections that outlive their request, because they become something else than HTTP.

A request takes some ten kilobytes: gunicorn's parser, the environ, Flask's contexts and the stack of their
calls. A connection that goes on for minutes as a WebSocket needs none of it, so it goes on after all of this
is gone.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

Continuation = Callable[[], None]
"""Serves the connection until it ends, and closes it. It raises nothing."""

_continuations: dict[int, Continuation] = {}
"""By the connection's file descriptor."""


def continue_with(client: socket.socket, continuation: Continuation) -> None:
    """Has the connection go on when its request has ended. The continuation keeps it open until then."""
    _continuations[client.fileno()] = continuation


def take_continuation(descriptor: int) -> Continuation | None:
    """Returns how a connection goes on, once; None where it ends with its request."""
    return _continuations.pop(descriptor, None)
