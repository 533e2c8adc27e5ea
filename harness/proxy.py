"""A network between a process and Redis that fails when it is told to."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Forwards TCP connections from a port of its own to the Redis at `redis_url`. A context manager."""

    def __init__(self, redis_url: str) -> None:
        parts = urlsplit(redis_url)
        self.lead_to(redis_url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = urlunsplit(parts._replace(netloc=f"127.0.0.1:{self._listener.getsockname()[1]}"))
        self._requests_pass, self._answers_pass = threading.Event(), threading.Event()
        self._delay_seconds = 0.0
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._is_closed = False
        self.heal()

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone would not wake accept().
        self._listener.close()
        self.cut()
        self.heal()

    def lead_to(self, redis_url: str) -> None:
        """Forwards new connections to this Redis. Open connections stay where they are."""
        parts = urlsplit(redis_url)
        self._target = (parts.hostname or "", parts.port or 0)

    def blackhole(self) -> None:
        """Makes a partition: connections stay open and nothing passes. All data arrives after `heal`."""
        self._requests_pass.clear()
        self._answers_pass.clear()

    def hold_answers(self) -> None:
        """Lets requests pass and holds answers back: Redis executes calls, and the caller gets no answer."""
        self._answers_pass.clear()

    def heal(self) -> None:
        self._delay_seconds = 0.0
        self._requests_pass.set()
        self._answers_pass.set()

    def delay(self, seconds: float) -> None:
        """Forwards everything this much later, in either direction."""
        self._delay_seconds = seconds

    def cut(self) -> None:
        """Closes all connections, and accepts new ones."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            _shut_down(one)

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._requests_pass.wait()
        try:
            redis = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        for one in (client, redis):
            # Otherwise the kernel holds small messages back until earlier ones are acknowledged: up to 40 ms.
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._sockets |= {client, redis}
        answers = threading.Thread(target=self._pump, args=(redis, client, self._answers_pass), daemon=True)
        answers.start()
        self._pump(client, redis, self._requests_pass)
        answers.join()
        with self._lock:
            self._sockets -= {client, redis}
        # Only after both threads have stopped reading. A new connection may get the same descriptor, and a
        # thread that still reads from it would take its bytes.
        client.close()
        redis.close()

    def _passed_on(self, data: bytes) -> bytes:
        """Returns what is forwarded for a piece of a request or an answer. Subclasses change it."""
        return data

    def _pump(self, source: socket.socket, sink: socket.socket, may_pass: threading.Event) -> None:
        """Forwards one direction to its end, then closes both connections."""
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                time.sleep(self._delay_seconds)
                may_pass.wait()
                sink.sendall(self._passed_on(data))
            may_pass.wait()
        _shut_down(source)
        _shut_down(sink)


def _shut_down(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)  # Unlike close(), it wakes a thread that reads.
