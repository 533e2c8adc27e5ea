"""The keys that Python reads, and the periods that are not settings.

The Lua scripts build the same names, and a few that only they use.
"""

from __future__ import annotations

SCHEMA = 3
"""Carried by every key and channel, so that a rolling upgrade never mixes two schemas (docs/upgrades.md)."""

PREFIX = f"tokenrelay:{SCHEMA}:"

COUNTS = PREFIX + "counts"
"""Hash: status -> number of jobs."""

WORKERS = PREFIX + "workers"
"""Hash: worker -> what it announced last (JSON)."""

MODELS_SINCE = PREFIX + "models_since"
"""Hash: model -> when a worker announced it for the first time. It stays known when its workers are away."""

RESEND_OFFER_SECONDS = 2.0
"""An offer not claimed for this long is sent again: longer than a claim takes on a busy worker, short
against a person's patience."""

HEARTBEATS_PER_LEASE = 3
"""Renewals (and reaper ticks) per lease: two may be lost before anybody acts."""

MAX_JOBS_PER_CALL = 128
"""Jobs in one script call at most: Redis is single-threaded, and 128 hold it for about 2 ms."""

LONG_ANSWER_BYTES = 1024 * 1024
"""A script that reads jobs stops after the one that brings its answer to this size. A job may be about as
long by itself: its prompt is at most 1 MiB."""


def job(job_id: str) -> str:
    """Hash: the record."""
    return f"{PREFIX}job:{job_id}"


def log(job_id: str) -> str:
    """List: the token log; seq = index + 1."""
    return f"{PREFIX}log:{job_id}"


def events(job_id: str) -> str:
    """Channel: what is appended to the log, as `[first seq, entry, ...]`."""
    return f"{PREFIX}events:{job_id}"


def lifeline(worker: str, process: str) -> str:
    """Channel: a worker's process subscribes to it and nothing is ever sent."""
    return f"{PREFIX}lifeline:{worker}:{process}"


def queue(model: str, engine: str | None = None) -> str:
    """Where a model's jobs wait: for workers of any engine, or of this one."""
    return f"{engine or 'any'}:{model}"


def engine_pool(model: str, engine: str) -> str:
    """The workers of one engine on one model: they take from `queue(model)` and `queue(model, engine)`."""
    return f"{engine}:{model}"


def engine_pools(model: str) -> str:
    """Set: the model's engine pools that ever had a worker, or a job of their own."""
    return f"{PREFIX}pools:{model}"


def line(queue: str, width: int = 1, version: int = 1) -> str:
    """Sorted set: waiting jobs that take `width` slots of a worker that knows `version`, by fair tag."""
    return f"{PREFIX}line:{queue}:{width}:{version}"


def offered(engine_pool: str) -> str:
    """Sorted set: jobs sent to Celery and not claimed, by the time to send them again."""
    return f"{PREFIX}offered:{engine_pool}"


def leases(engine_pool: str) -> str:
    """Sorted set: running jobs by lease end."""
    return f"{PREFIX}leases:{engine_pool}"


def slots(engine_pool: str) -> str:
    """Hash: worker -> slots that its offers and leases take; none where it has none."""
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
