"""Notices a client that disconnects while its request waits.

A WSGI view does not see that, so a greenlet peeks at the socket: end of file means that the client has closed
the connection. A client that closes only its sending half counts as gone too, as with other servers.

A client whose host or network has vanished closes nothing. The kernel then probes the client, or waits for
its acknowledgements if data was sent, and finally reports an error on the socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import gevent
from flask import request
from gevent.socket import wait_read

SILENT_SECONDS = 15
"""The kernel probes a client that has been silent for this long."""

PROBE_SECONDS = 5
"""The time between two probes."""

UNANSWERED_SECONDS = 30
"""A client is dead when it has sent nothing, or not acknowledged what was sent, for this long.

Streams send something every 10 s, so on all of them a dead client is noticed within 40 s."""


def notice_silence(client: socket.socket) -> None:
    """Makes the kernel notice that a client has vanished, whatever the connection is used for."""
    if client.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # macOS calls the first one TCP_KEEPALIVE and lacks the last one; its probes find a silent client as well.
    options = {
        "TCP_KEEPIDLE": SILENT_SECONDS,
        "TCP_KEEPALIVE": SILENT_SECONDS,
        "TCP_KEEPINTVL": PROBE_SECONDS,
        "TCP_KEEPCNT": max(1, (UNANSWERED_SECONDS - SILENT_SECONDS) // PROBE_SECONDS),
        "TCP_USER_TIMEOUT": UNANSWERED_SECONDS * 1000,
    }
    with suppress(OSError):  # It has left already, and the next read will fail.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):
                client.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def request_socket() -> socket.socket | None:
    """Returns the client's socket; None without gunicorn, as in Flask's test client."""
    found: socket.socket | None = request.environ.get("gunicorn.socket")
    return found


@contextmanager
def on_disconnect(client: socket.socket | None, call: Callable[[], None]) -> Iterator[None]:
    """Calls `call` from another greenlet if the client leaves before the block ends."""
    if client is None:
        yield
        return
    watcher = gevent.spawn(_watch, client, call)
    try:
        yield
    finally:
        # Blocks: gunicorn must not read the next request while the watcher still reads.
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
