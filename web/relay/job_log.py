"""The relay's reads of records and logs. Each reads a small part of one job and fails soon."""

from __future__ import annotations

from dataclasses import dataclass

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.failover import connection_class
from tasks.job import Job, Status
from tasks.reading import JobHeader, JobReader
from web.relay.events import Batch

PAGE_ENTRIES = 500
"""How many entries are read at once, about 50 KB. A reader that has a lot to read must neither block Redis
nor fill memory."""

TIMEOUT_SECONDS = 2.0
"""With one retry a read fails within about 4 s, so a stream has time for its keep-alive."""

MAX_CONNECTIONS = 32
"""All readers of the process share them. After a reconnect all readers read, perhaps a thousand at once."""


def connect(redis_url: str) -> Redis:
    """Returns a client with shorter time-outs than that of `tasks.connection`, and few connections."""
    pool = BlockingConnectionPool.from_url(
        redis_url,
        connection_class=connection_class(redis_url),
        decode_responses=True,
        max_connections=MAX_CONNECTIONS,
        timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 1),
    )
    return Redis(connection_pool=pool)


@dataclass(frozen=True, slots=True)
class Page:
    """Successive entries of a log. `status` is None where there is no such job."""

    batch: Batch
    status: Status | None

    @property
    def is_last(self) -> bool:
        return len(self.batch) < PAGE_ENTRIES


class JobLog:
    """Reads jobs for the relay. Every method may raise redis.exceptions.RedisError."""

    def __init__(self, reader: JobReader) -> None:
        self._reader = reader

    def ping(self) -> None:
        self._reader.redis.ping()

    def header(self, job_id: str, owner: str | None) -> JobHeader:
        """Returns a job's header; `owner` None means anybody's. Raises JobNotFoundError."""
        return self._reader.header(job_id, owner)

    def job(self, job_id: str) -> Job:
        """Returns the job. Raises JobNotFoundError."""
        return self._reader.get(job_id)

    def page(self, job_id: str, after: int) -> Page:
        """Returns the next entries with seq > after, and the job's status at the same moment."""
        page = self._reader.read_page(job_id, after, PAGE_ENTRIES)
        return Page(Batch(after + 1, page.entry_texts), page.status)
