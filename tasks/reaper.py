"""The reaper: a Lua script that every worker and every web process calls, hence leaderless.

It also packs the logs of ended jobs, which Lua cannot.
"""

from __future__ import annotations

import logging
import threading
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from tasks import keys
from tasks.log import pack
from tasks.scripts import Ring, Scripts, as_offers
from tasks.settings import Settings

MAX_JOBS_PER_CALL = 100
"""Jobs of one kind moved by one call; the next call follows at once."""

MIN_PAUSE_SECONDS = 0.05
"""Between two calls, however much is due, and with however many processes calling."""

LONGEST_PAUSE_SECONDS = 1.0
"""So that a worker's lifeline is known soon after its start, however long leases are."""

logger = logging.getLogger(__name__)


class Reaper:
    """Calls the script when something is due, at least some times per lease.

    Its thread is a greenlet in a gevent process.
    """

    def __init__(self, redis: Redis, settings: Settings, ring: Ring) -> None:
        self._redis = redis
        self._scripts = Scripts(redis, settings)
        self._ring = ring
        self._lease_seconds = settings.lease_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def reap(self) -> float:
        """Move on what is due; seconds until something is due again. Raises RedisError."""
        seconds, offers, ended, dangling = self._scripts.call("reap", MAX_JOBS_PER_CALL, self._lease_seconds)
        self._ring(as_offers(offers))
        for job_id in dangling:
            logger.error("the record of %s is missing or damaged, so the job is lost", job_id)
        for job_id in ended:
            self.pack(job_id)
        return float(seconds)

    def pack(self, job_id: str) -> bool:
        """Pack an ended job's log; whether it is packed now. Raises RedisError."""
        entries = cast("list[str]", self._redis.lrange(keys.log(job_id), 0, -1))
        return bool(self._scripts.call("pack", job_id, len(entries), pack(entries)))

    def _run(self) -> None:
        longest = min(self._lease_seconds / keys.HEARTBEATS_PER_LEASE, LONGEST_PAUSE_SECONDS)
        pause = 0.0
        while not self._stop.wait(max(MIN_PAUSE_SECONDS, min(pause, longest))):
            try:
                pause = self.reap()
            except RedisError as error:
                logger.warning("the reaper could not reach Redis: %s", error)
                pause = longest
