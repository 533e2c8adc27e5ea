"""One way to reach Redis, with its patience spelled out."""

from __future__ import annotations

from redis import BlockingConnectionPool, Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError, TimeoutError
from redis.retry import Retry

from tasks.settings import Settings

CONNECT_TIMEOUT_SECONDS = 2.0
CALL_TIMEOUT_SECONDS = 5.0
"""Longer than any script holds Redis, shorter than a client waits for its submit."""

RETRIES = 3
"""Every script may be run twice, so a call whose answer was lost is simply made again."""

MAX_CONNECTIONS = 32
"""Redis makes one call at a time anyway, and a pool never shrinks: a burst of a thousand requests would leave
a thousand connections open. Beyond this many, callers wait for their turn."""


def connect(settings: Settings) -> Redis:
    """A client with a pool of its own; threads and greenlets may share it."""
    pool = BlockingConnectionPool.from_url(
        settings.required_redis_url,
        max_connections=MAX_CONNECTIONS,
        timeout=CALL_TIMEOUT_SECONDS,
        decode_responses=True,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=CALL_TIMEOUT_SECONDS,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), RETRIES),
        retry_on_error=[ConnectionError, TimeoutError],
        health_check_interval=15,
    )
    return Redis.from_pool(pool)
