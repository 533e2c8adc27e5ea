"""Noticing a client that has gone while its request waits.

A WSGI view does not see it, so a greenlet peeks at the socket: end of file there means that the client
has hung up. A client that closes only its sending half counts as gone too, as with other servers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
from flask import request
from gevent.socket import wait_read


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
