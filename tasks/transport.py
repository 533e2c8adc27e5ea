"""kombu's Redis transport, with connections that leave a replica."""

from __future__ import annotations

from kombu.transport import redis

from tasks.failover import PrimaryTCPConnection, PrimaryTLSConnection


class PrimaryChannel(redis.Channel):
    connection_class = PrimaryTCPConnection
    connection_class_ssl = PrimaryTLSConnection


class PrimaryTransport(redis.Transport):
    Channel = PrimaryChannel
