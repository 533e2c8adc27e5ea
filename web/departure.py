"""Noticing a client that has gone while its request waits.

A WSGI view does not see it, so a greenlet peeks at the socket: end of file there means that the client
has hung up. A client that closes only its sending half counts as gone too, as with other servers.

A client whose host or network vanished does not hang up. The kernel probes it while nothing is sent, waits
for its acknowledgements otherwise, and in the end reports an error on the socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import gevent
from flask import request
from gevent.socket import wait_read

SILENT_SECONDS = 15
"""The kernel asks a silent client whether it is still there after this long."""

PROBE_SECONDS = 5
"""It asks again so often."""

UNANSWERED_SECONDS = 30
"""A client is dead when nothing was heard from it for this long, or when it has not acknowledged for this
long what was sent. Streams send something every 10 s, so that it is noticed within 40 s on all of them."""


def notice_silence(client: socket.socket) -> None:
    """Let the kernel find out that a client has vanished, whatever the connection is used for."""
    if client.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # macOS calls the first one TCP_KEEPALIVE and lacks the last one; its probes find a silent client, too.
    options = {
        "TCP_KEEPIDLE": SILENT_SECONDS,
        "TCP_KEEPALIVE": SILENT_SECONDS,
        "TCP_KEEPINTVL": PROBE_SECONDS,
        "TCP_KEEPCNT": max(1, (UNANSWERED_SECONDS - SILENT_SECONDS) // PROBE_SECONDS),
        "TCP_USER_TIMEOUT": UNANSWERED_SECONDS * 1000,
    }
    with suppress(OSError):  # It has left already, which is found out when it is read from.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):
                client.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def request_socket() -> socket.socket | None:
    """The client's socket; None under another server than gunicorn, as in Flask's test client."""
    found: socket.socket | None = request.environ.get("gunicorn.socket")
    return found


@contextmanager
def on_departure(client: socket.socket | None, call: Callable[[], None]) -> Iterator[None]:
    """Call `call` from another greenlet if the client leaves before the block ends."""
    if client is None:
        yield
        return
    watcher = gevent.spawn(_watch, client, call)
    try:
        yield
    finally:
        # Blocks, because gunicorn must not read for the next request while the watcher still does.
        watcher.kill()


def _watch(client: socket.socket, call: Callable[[], None]) -> None:
    try:
        wait_read(client.fileno())
        has_left = client.recv(1, socket.MSG_PEEK) == b""
    except ValueError:  # TLS ends here, and Python's TLS sockets cannot peek.
        return
    except OSError:
        has_left = True
    if has_left:
        call()
