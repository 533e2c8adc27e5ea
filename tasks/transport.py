"""kombu's Redis transport, with connections that leave a replica, and cheaper publishing."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis

from tasks.failover import PrimaryTCPConnection, PrimaryTLSConnection


class PrimaryChannel(redis.Channel):
    connection_class = PrimaryTCPConnection
    connection_class_ssl = PrimaryTLSConnection
    _publisher: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Returns a client. The one for publishing is kept: kombu makes one for each message, which takes as
        long as to publish it.
        """
        create: Any = super()._create_client  # type: ignore[misc]  # kombu has no types.
        if asynchronous:
            return create(asynchronous=True)
        if self._publisher is None or self._publisher.connection_pool is not self.pool:
            self._publisher = create()
        return self._publisher


class PrimaryTransport(redis.Transport):
    Channel = PrimaryChannel
