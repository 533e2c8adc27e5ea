"""gunicorn's gevent worker, which closes streams properly when it stops, and answers errors without HTML."""

from __future__ import annotations

import errno
import os
import socket
from types import FrameType
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker

from tasks.reaper import Reaper
from web.errors import GoingAwayError
from web.render import to_json
from web.services import services_of
from web.serving.disconnects import notice_silence
from web.serving.interrupts import Interruptible
from web.serving.request_bodies import LAST_BODY_SECONDS, ClientBody
from web.serving.upgrades import take_continuation

LAST_CALL_SECONDS = 0.2
"""How long a connection that was just opened may take to send its request while the server stops."""

CLOSE_FRAMES_SECONDS = 1.0
"""How long a process whose master was killed takes to send close frames before it ends."""

GONE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNABORTED})
"""The kernel's errors for a client that has vanished."""


class Worker(GeventWorker):  # type: ignore[misc]
    """Closes the streams when it is told to stop; gunicorn itself drops them without a close frame.

    It also closes idle connections, for which gunicorn would wait.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle = Interruptible()
        self._receiving = Interruptible()
        self._has_closed_streams = False

    def timeout_ctx(self) -> _Idle:
        """Returns what limits the wait for a connection's next request, headers included."""
        return _Idle(self._idle, self.cfg.keepalive if self.alive else LAST_CALL_SECONDS)

    def notify(self) -> None:
        """Notices that this process is about to end. gunicorn calls this every second.

        A signal is not the only end: after `max_requests` gunicorn just stops accepting connections, and
        when the master was killed it exits at once.
        """
        is_orphaned = self.ppid != os.getppid()
        if is_orphaned or not self.alive:
            self._close_streams()
        if is_orphaned:
            gevent.sleep(CLOSE_FRAMES_SECONDS)
        super().notify()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        gevent.spawn(self._close_streams)  # A signal handler must not block.

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        gevent.spawn(self._close_streams)
        super().handle_quit(sig, frame)

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        notice_silence(client)
        descriptor = client.fileno()  # TLS keeps it, and replaces the socket.
        super().handle(listener, client, addr)
        if continuation := take_continuation(descriptor):
            continuation()

    def handle_request(self, listener_name: Any, req: Any, client: socket.socket, *args: Any) -> Any:
        body = req.body
        req.body = ClientBody(req, self._receiving, is_stopping=not self.alive)
        try:
            return super().handle_request(listener_name, req, client, *args)
        except OSError as error:
            # A stalled or vanished reader is no fault of this server. gunicorn logs this kind of error
            # without a traceback.
            if isinstance(error, TimeoutError) or error.errno in GONE:
                raise ConnectionResetError(errno.ECONNRESET, str(error) or "the reader stalled") from error
            raise
        finally:
            # gunicorn discards what no view has read, within its limit for idle connections.
            req.body = body

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answers with a problem if the request could not be parsed as HTTP."""
        super().handle_error(req, _ProblemSocket(client), addr, exc)

    def _close_streams(self) -> None:
        if self._has_closed_streams:
            return
        self._has_closed_streams = True
        if self.booted:
            services_of(self.wsgi).hub.close()
        self._idle.interrupt(StopIteration)  # gunicorn's way to end a connection.
        gevent.spawn_later(LAST_BODY_SECONDS, self._receiving.interrupt, _body_cut_off)


def _body_cut_off() -> GoingAwayError:
    return GoingAwayError("the server stops before the body has arrived; nothing was accepted", retry_after=1)


class _Idle:
    """gunicorn's limit for an idle connection, which ends when the server stops as well."""

    def __init__(self, idle: Interruptible, seconds: float) -> None:
        self._waiting = idle.waiting()
        self._timeout = gevent.Timeout(seconds, False)

    def __enter__(self) -> None:
        self._waiting.__enter__()
        self._timeout.start()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self._timeout.close()
        self._waiting.__exit__(None, None, None)
        return error is self._timeout


class _ProblemSocket:
    """Replaces the client's socket where gunicorn writes its HTML error page."""

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


def start_background(worker: Worker) -> None:
    """Starts this process' feeder and its reaper: deadlines must also fire while no worker is alive."""
    s = services_of(worker.wsgi)
    Reaper(s.store.scripts).start()
    s.feeder.start()
