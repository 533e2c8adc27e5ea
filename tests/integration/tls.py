"""A TLS proxy in front of a Redis, because the tests' redis-server is built without TLS."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for the name localhost, without addresses."""

    certificate: Path
    key: Path

    @classmethod
    def made_in(cls, folder: Path) -> Certificate:
        made = cls(folder / "certificate.pem", folder / "key.pem")
        kind = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
        name = ["-addext", "subjectAltName=DNS:localhost"]
        files = ["-keyout", str(made.key), "-out", str(made.certificate)]
        subprocess.run(["openssl", "req", *kind.split(), *name, *files], check=True, capture_output=True)
        return made


@contextmanager
def tls_in_front_of(redis_url: str, certificate: Certificate) -> Iterator[int]:
    """Runs the proxy in one thread, as TLS sockets are not thread-safe. Yields its port on localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    front = _Front(redis_url, context)
    thread = threading.Thread(target=lambda: asyncio.run(front.serve()))
    thread.start()
    front.is_listening.wait()
    try:
        yield front.port
    finally:
        front.stop()
        thread.join()


class _Front:
    def __init__(self, redis_url: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(redis_url)
        self._redis = (parts.hostname, parts.port)
        self._context = context
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps: list[asyncio.Task[None]] = []
        self.is_listening = threading.Event()
        self.port = 0

    async def serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connect, "localhost", 0, ssl=self._context, family=2)
        self.port = server.sockets[0].getsockname()[1]
        self.is_listening.set()
        await self._stopped.wait()
        server.close()
        for writer in self._writers:
            writer.transport.abort()  # Without TLS' closing handshake, which the client would not answer.
        await asyncio.gather(*self._pumps)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection(*self._redis)
        self._writers += [writer, redis_writer]
        pumps = _pump(reader, redis_writer), _pump(redis_reader, writer)
        self._pumps += [asyncio.create_task(pump) for pump in pumps]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # A client that does not trust the certificate closes the connection.
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
