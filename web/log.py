"""The relay's reads: small ones, of one job each, that give up soon.

None is a transaction, which a full Redis would refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks import keys
from tasks.errors import JobNotFoundError
from tasks.job import TERMINAL_STATUSES, Job, Status
from tasks.log import parse_entry
from tasks.store import Store
from web.render import Batch

PAGE_ENTRIES = 500
"""Entries read at once: about 50 KB, so that a reader far behind neither holds Redis nor fills memory."""

TIMEOUT_SECONDS = 2.0
"""With one retry a read fails within about 4 s, which leaves a stream time for its keep-alive."""

MAX_CONNECTIONS = 32
"""Shared by all readers of the process: after a reconnect each of them reads, a thousand at once perhaps."""


def connect(redis_url: str) -> Redis:
    """A client for reads by the relay: less patient than `tasks.connection`, and bounded."""
    pool = BlockingConnectionPool.from_url(
        redis_url,
        decode_responses=True,
        max_connections=MAX_CONNECTIONS,
        timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 1),
    )
    return Redis(connection_pool=pool)


@dataclass(frozen=True, slots=True)
class Glance:
    """A job's status and the length of its log."""

    status: Status
    log_length: int

    def has_nothing_after(self, seq: int) -> bool:
        return self.status in TERMINAL_STATUSES and self.log_length <= seq


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of the log. `status` is None where there is no such job."""

    batch: Batch
    status: Status | None

    @property
    def is_last(self) -> bool:
        return len(self.batch.entries) < PAGE_ENTRIES


class JobLog:
    """Every method may raise redis.exceptions.RedisError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._redis = store.redis

    def ping(self) -> None:
        self._redis.ping()

    def glance(self, job_id: str, owner: str | None) -> Glance:
        """`owner` None reads anybody's. Raises JobNotFoundError."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hmget(keys.job(job_id), "owner", "status")
        pipe.llen(keys.log(job_id))
        (found_owner, status), length = pipe.execute()
        if found_owner is None or (owner is not None and found_owner != owner):
            raise JobNotFoundError(f"there is no job {job_id}")
        return Glance(Status(status), length)

    def job(self, job_id: str) -> Job:
        """Raises JobNotFoundError."""
        return self._store.get(job_id)

    def page(self, job_id: str, after: int) -> Page:
        """The next entries with seq > after, and the status just before: an ended job's log is complete."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hget(keys.job(job_id), "status")
        pipe.lrange(keys.log(job_id), after, after + PAGE_ENTRIES - 1)
        pipe.exists(keys.job(job_id))
        status, raw, exists = pipe.execute()
        entries = [parse_entry(entry) for entry in cast(Sequence[str], raw)]
        return Page(Batch(after + 1, entries), Status(status) if status and exists else None)
