"""gunicorn's gevent worker, with a good-bye for its streams and without HTML."""

from __future__ import annotations

import errno
import socket
from types import FrameType
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker

from tasks.reaper import Reaper
from web.render import to_json
from web.services import services_of

LAST_CALL_SECONDS = 0.2
"""While the server stops: time for a request that is on its way on a connection just opened."""


class Worker(GeventWorker):  # type: ignore[misc]
    """Closes the streams when it is told to stop: gunicorn itself drops them without a close frame.

    It hangs up on idle connections as well, for which gunicorn would wait.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: set[gevent.Greenlet] = set()

    def timeout_ctx(self) -> _Idle:
        """Around the wait for a connection's next request."""
        return _Idle(self._idle, self.cfg.keepalive if self.alive else LAST_CALL_SECONDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        gevent.spawn(self._say_goodbye)  # A signal handler must not block.

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        gevent.spawn(self._say_goodbye)
        super().handle_quit(sig, frame)

    def handle_request(self, *args: Any) -> Any:
        try:
            return super().handle_request(*args)
        except TimeoutError as error:
            # A stalled reader is nobody's fault here; this kind gunicorn does not log with a traceback.
            raise ConnectionResetError(errno.ECONNRESET, "the reader stalled") from error

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """What does not even parse as HTTP gets a problem, too."""
        super().handle_error(req, _ProblemSocket(client), addr, exc)

    def _say_goodbye(self) -> None:
        if self.booted:
            services_of(self.wsgi).hub.close()
        for greenlet in list(self._idle):
            greenlet.kill(StopIteration, block=False)  # gunicorn's way to end a connection.


class _Idle:
    """gunicorn's limit for an idle connection, and the list of those that are idle."""

    def __init__(self, idle: set[gevent.Greenlet], seconds: float) -> None:
        self._idle = idle
        self._timeout = gevent.Timeout(seconds, False)

    def __enter__(self) -> None:
        self._idle.add(gevent.getcurrent())
        self._timeout.start()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        self._idle.discard(gevent.getcurrent())
        self._timeout.close()
        return error is self._timeout


class _ProblemSocket:
    """Stands in for the client's socket where gunicorn writes its HTML error page."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def sendall(self, page: bytes) -> None:
        status, reason = page.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)[1:]
        fields = {
            "type": f"urn:tokenrelay:error:{reason.lower().replace(' ', '_')}",
            "title": reason,
            "status": int(status),
            "detail": "the request is not valid HTTP" if status.startswith("4") else "an unexpected error",
            "errors": [],
        }
        body = to_json(fields).encode()
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
            f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._client.sendall(head.encode("latin-1") + body)


def start_reaper(worker: Worker) -> None:
    """Every web process reaps too, so that deadlines fire while no worker lives."""
    s = services_of(worker.wsgi)
    Reaper(s.store.redis, s.settings, s.ring).start()
