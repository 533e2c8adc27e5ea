"""Connects to Redis: time-outs, retries, and the meaning of errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from redis import BlockingConnectionPool, Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,
    RedisError,
    TimeoutError,
)
from redis.retry import Retry

from tasks.failover import connection_class
from tasks.settings import Settings

CONNECT_TIMEOUT_SECONDS = 2.0
CALL_TIMEOUT_SECONDS = 5.0
"""Longer than any script blocks Redis, and shorter than a client waits for its submit."""

RETRIES = 3
"""How often a call is repeated. That is safe after a lost answer, because every script may run twice."""

LONGEST_PAUSE_SECONDS = 0.5
"""The longest pause before a call or a connection is tried again."""

LONGEST_CALL_SECONDS = CALL_TIMEOUT_SECONDS + (RETRIES + 1) * (
    (RETRIES + 1) * (CONNECT_TIMEOUT_SECONDS + LONGEST_PAUSE_SECONDS)
    + (CALL_TIMEOUT_SECONDS + LONGEST_PAUSE_SECONDS)
)
"""The longest time of a call: the wait for a connection, then every attempt, which may have to connect."""

REDIS_RETRY_SECONDS = 2
"""About as long as a Redis takes to restart or to fail over: the `Retry-After` for clients."""

MAX_CONNECTIONS = 32
"""Redis runs one call at a time anyway, and a connection pool never shrinks: a burst of a thousand requests
would leave a thousand connections open. Beyond this number, callers wait for their turn."""


PASSING = re.compile(r"(^|[ -])(BUSY|LOADING|MASTERDOWN|MISCONF|OOM|READONLY) ")
"""Redis' error codes for conditions that pass. An error inside a script has its code in the middle."""


def is_away(error: RedisError) -> bool:
    """Returns whether Redis cannot serve at present: it is cut off, loading, full, a replica, or its disk
    fails.

    Any other error means that a call, a script or a permission is wrong, so waiting would not help.
    """
    if isinstance(error, AuthenticationError | AuthorizationError):
        return False
    return isinstance(error, ConnectionError | TimeoutError) or PASSING.search(str(error)) is not None


NOT_SENT = re.compile("connecting to|No connection available|loading the dataset|^READONLY")
"""What redis-py says if it sent no command, or if Redis took none."""

_failures: ContextVar[list[Exception] | None] = ContextVar("failures", default=None)


class NotedRetry(Retry):
    """Notes the error of each failed attempt, see `noted_failures`."""

    def call_with_retry(self, do: Any, fail: Callable[..., Any], *options: Any, **named: Any) -> Any:
        def note(error: Exception, *count: int) -> Any:
            failures = _failures.get()
            if failures is not None:
                failures.append(error)
            return fail(error, *count)

        return super().call_with_retry(do, note, *options, **named)


@contextmanager
def noted_failures() -> Iterator[list[Exception]]:
    """Collects the errors of all attempts that fail inside the context, in this thread or greenlet."""
    failures: list[Exception] = []
    before = _failures.set(failures)
    try:
        yield failures
    finally:
        _failures.reset(before)


def may_have_been_sent(failures: Sequence[Exception]) -> bool:
    """Returns whether one of the attempts had a working connection, so Redis may have run the command."""
    return any(NOT_SENT.search(str(failure)) is None for failure in failures)


def connect(settings: Settings) -> Redis:
    """Returns a client with its own connection pool. Threads and greenlets may share it."""
    pool = BlockingConnectionPool.from_url(
        settings.required_redis_url,
        connection_class=connection_class(settings.required_redis_url),
        max_connections=MAX_CONNECTIONS,
        timeout=CALL_TIMEOUT_SECONDS,
        decode_responses=True,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=CALL_TIMEOUT_SECONDS,
        retry=NotedRetry(ExponentialWithJitterBackoff(base=0.05, cap=LONGEST_PAUSE_SECONDS), RETRIES),
        retry_on_error=[ConnectionError, TimeoutError],
        health_check_interval=15,
    )
    return Redis.from_pool(pool)
