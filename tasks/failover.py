"""Connections to Redis that do not stay with a replica.

After a failover the old master may live on as a replica. Connections to it stay open and refuse every write,
although the address in REDIS_URL may lead to the new master by now. So the first connection whose write is
refused closes all of the process' connections to that address, and each of them connects again, as after any
loss. From then on a new connection asks for the role of the Redis that it has reached, and leaves a replica.
Otherwise a connection that only reads or listens would not notice that it was left behind.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import defaultdict
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

from redis.connection import AbstractConnection, Connection, SSLConnection
from redis.exceptions import ConnectionError, MasterDownError, ReadOnlyError, ResponseError

from tasks.redis_url import TLS

REFUSED = re.compile("(^|[ -])(MASTERDOWN|READONLY|UNBLOCKED) ")
"""Error codes of a replica, or of a master that becomes one. A script's error has its code in the middle."""

REPLICA = ("slave", b"slave")
"""What the command ROLE calls it."""

Address = tuple[str, int]


class ReplicaError(ConnectionError):
    """READONLY: this Redis is a replica at present, and nothing was written."""

    def __init__(self, address: Address) -> None:
        host, port = address
        super().__init__(f"READONLY: the Redis at {host}:{port} is a replica at present")


class _Failovers:
    """Counts the failovers of each address, and knows the connections that were made before the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: defaultdict[Address, int] = defaultdict(int)
        self._connections: WeakSet[PrimaryConnection] = WeakSet()

    def join(self, connection: PrimaryConnection) -> int:
        """Remembers a connection that is being made. Returns the number of failovers of its address."""
        with self._lock:
            self._connections.add(connection)
            return self._counts[connection.address]

    def refused(self, connection: PrimaryConnection) -> None:
        """Ends all connections to the same address, unless connections as old as this one were ended before.

        Sockets are shut down and not closed: the thread that uses a socket closes it when it reads the end.
        """
        with self._lock:
            if connection.failovers < self._counts[connection.address]:
                return
            self._counts[connection.address] += 1
            others = [one for one in self._connections if one.address == connection.address]
        for one in others:
            one.hang_up()


_failovers = _Failovers()


def is_a_replicas(error: ResponseError) -> bool:
    """Returns whether the error is a replica's. redis-py drops the code if it has a class for the error."""
    return isinstance(error, ReadOnlyError | MasterDownError) or REFUSED.search(str(error)) is not None


class PrimaryConnection(AbstractConnection):
    """Adds the behaviour of this module to redis-py's connections; see `connection_class`."""

    host: str
    port: int
    failovers = 0
    """How many failovers of its address there had been when this connection was made."""

    @property
    def address(self) -> Address:
        return self.host, self.port

    def on_connect_check_health(self, check_health: bool = True) -> None:
        """Raises ReplicaError."""
        self.failovers = _failovers.join(self)
        super().on_connect_check_health(check_health)
        if self.failovers and self._role() in REPLICA:
            raise ReplicaError(self.address)

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Raises ReplicaError if a replica refuses; redis-py's ResponseError would keep the connection."""
        try:
            return super().read_response(*args, **options)
        except ResponseError as error:
            if not is_a_replicas(error):
                raise
        self.disconnect()  # type: ignore[no-untyped-call]
        _failovers.refused(self)
        raise ReplicaError(self.address)

    def hang_up(self) -> None:
        """Ends the connection from another thread than the one that uses it."""
        used = self._get_socket()
        if used is not None:
            with suppress(OSError):
                used.shutdown(socket.SHUT_RDWR)

    def _role(self) -> Any:
        """Returns None if this Redis user may not ask for it."""
        self.send_command("ROLE", check_health=False)  # type: ignore[no-untyped-call]
        try:
            return self.read_response()[0]
        except ResponseError:
            return None


class PrimaryTCPConnection(PrimaryConnection, Connection):
    pass


class PrimaryTLSConnection(PrimaryConnection, SSLConnection):
    pass


def connection_class(redis_url: str) -> type[PrimaryConnection]:
    """Returns the class for `ConnectionPool.from_url`; its own choice would stay with a replica."""
    return PrimaryTLSConnection if urlsplit(redis_url).scheme == TLS else PrimaryTCPConnection
