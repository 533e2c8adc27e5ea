"""Who subscribes to jobs' channels in Redis."""

from __future__ import annotations

from redis import Redis

from tasks import keys


def subscribers(redis: Redis, job_id: str) -> int:
    return int(redis.pubsub_numsub(keys.events(job_id))[0][1])


def no_channels(redis: Redis) -> bool:
    return redis.pubsub_channels() == []
