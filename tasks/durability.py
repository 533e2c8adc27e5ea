"""Whether a Redis keeps the jobs that it accepts: asked once, when a process starts."""

from __future__ import annotations

import logging

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from tasks.errors import SettingsError

logger = logging.getLogger(__name__)

NO_APPEND_ONLY_FILE = (
    "REDIS_URL: this Redis has no append-only file, so all jobs are lost when it dies; set `appendonly yes`"
)


def check_durability(redis: Redis) -> None:
    """Refuses a Redis that would drop jobs, and warns if it would lose them when it dies.

    Raises SettingsError. A Redis that cannot be asked at present is accepted, because nothing is known
    about it.
    """
    try:
        refuse_eviction(redis)
        _warn_without_append_only_file(redis)
    except RedisError as error:
        logger.warning("could not ask Redis how it keeps jobs: %s", error)


def refuse_eviction(redis: Redis) -> None:
    """Raises SettingsError if Redis would drop jobs to make room once it is full, and RedisError."""
    policy = str(redis.info("memory")["maxmemory_policy"])
    if policy.startswith("allkeys"):
        message = (
            f"REDIS_URL: with maxmemory-policy {policy} this Redis would drop jobs; set it to noeviction"
        )
        raise SettingsError(message)


def _warn_without_append_only_file(redis: Redis) -> None:
    try:
        configuration = redis.config_get("appendonly")
    except ResponseError as error:
        # Operators of managed Redis forbid CONFIG. They may keep the data in a way of their own.
        logger.debug("could not ask Redis for its append-only file: %s", error)
        return
    if configuration.get("appendonly") == "no":
        logger.warning(NO_APPEND_ONLY_FILE)
