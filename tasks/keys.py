"""The keys that Python reads, and the periods that are not settings.

The Lua scripts build the same names and others that only they use. docs/keys.md lists all of them.
"""

from __future__ import annotations

SCHEMA = 3
"""A part of every key and channel, so that a rolling upgrade never mixes two schemas (docs/upgrades.md)."""

PREFIX = f"tokenrelay:{SCHEMA}:"

COUNTS = PREFIX + "counts"
"""Hash: status -> number of jobs."""

WORKERS = PREFIX + "workers"
"""Hash: worker -> what it announced last (JSON)."""

MODELS_SINCE = PREFIX + "models_since"
"""Hash: model -> when a worker announced it for the first time. A model without workers stays known."""

RESEND_OFFER_SECONDS = 2.0
"""An offer that is not claimed for this long is sent again. It is longer than a claim takes on a busy worker,
and short enough for a person who waits."""

HEARTBEATS_PER_LEASE = 3
"""Renewals, and calls of the reaper, per lease: two of them may be lost before a lease ends."""

MAX_JOBS_PER_CALL = 128
"""The most jobs in one call of a script: Redis is single-threaded, and 128 jobs hold it for about 2 ms."""

MAX_JOBS_PER_FLUSH = 256
"""The most jobs in one call of flush.lua, which hold Redis for one to four milliseconds."""

LONG_ANSWER_BYTES = 1024 * 1024
"""A script that reads jobs stops after the job that brings its answer to this size. One job may be about as
long by itself, because its prompt may have 1 MiB."""


def job(job_id: str) -> str:
    """Hash: the record."""
    return f"{PREFIX}job:{job_id}"


def log(job_id: str) -> str:
    """List: the token log; seq = index + 1."""
    return f"{PREFIX}log:{job_id}"


def events(job_id: str) -> str:
    """Channel: what is appended to the log: the seq of the first entry, then the entries, by line ends."""
    return f"{PREFIX}events:{job_id}"


def lifeline(worker: str, process: str) -> str:
    """Channel: a worker's process subscribes to it, and nothing is ever published."""
    return f"{PREFIX}lifeline:{worker}:{process}"


BATCH_TURNS = PREFIX + "batch_turns"
"""Sorted set: batches that have not ended, by the time of their next turn."""


def file(file_id: str) -> str:
    """Hash: the record of a file."""
    return f"{PREFIX}file:{file_id}"


def content(file_id: str) -> str:
    """String: the contents of a file that is not on disk."""
    return f"{PREFIX}content:{file_id}"


def marks(file_id: str) -> str:
    """Sorted set: bytes of a batch's file that its first lines take, by the number of these lines."""
    return f"{PREFIX}marks:{file_id}"


def files(owner: str) -> str:
    """Sorted set: an owner's files by creation time."""
    return f"{PREFIX}files:{owner}"


def batch(batch_id: str) -> str:
    """Hash: the record of a batch."""
    return f"{PREFIX}batch:{batch_id}"


def batches(owner: str) -> str:
    """Sorted set: an owner's batches by creation time."""
    return f"{PREFIX}batches:{owner}"


def queue(model: str, engine: str | None = None) -> str:
    """Returns where a model's jobs wait: for workers of any engine, or of this one."""
    return f"{engine or 'any'}:{model}"


def engine_pool(model: str, engine: str) -> str:
    """Returns the name of the workers of one engine on one model.

    They take jobs from `queue(model)` and `queue(model, engine)`.
    """
    return f"{engine}:{model}"


def engine_pools(model: str) -> str:
    """Set: the model's engine pools that ever had a worker, or a job of their own."""
    return f"{PREFIX}pools:{model}"


def line(queue: str, width: int = 1, version: int = 1) -> str:
    """Sorted set: waiting jobs that take `width` slots of a worker that knows `version`, by fair tag."""
    return f"{PREFIX}line:{queue}:{width}:{version}"


def offered(engine_pool: str) -> str:
    """Sorted set: jobs on offer that are not claimed yet, by the time to send the offer again."""
    return f"{PREFIX}offered:{engine_pool}"


def leases(engine_pool: str) -> str:
    """Sorted set: running jobs by the end of their lease."""
    return f"{PREFIX}leases:{engine_pool}"


def slots(engine_pool: str) -> str:
    """Hash: worker -> slots that its offers and leases take; no field if it has none."""
    return f"{PREFIX}slots:{engine_pool}"


def alive(engine_pool: str) -> str:
    """Sorted set: workers by the end of their heartbeat."""
    return f"{PREFIX}alive:{engine_pool}"


def owner_jobs(owner: str) -> str:
    """Sorted set: all jobs of an owner by creation time."""
    return f"{PREFIX}jobs:{owner}"


def owner_jobs_by_status(owner: str, status: str) -> str:
    """Sorted set: an owner's jobs of one status by creation time."""
    return f"{PREFIX}jobs:{owner}:{status}"
