"""The lifeline: a connection to Redis whose end tells others that this process has ended, see reap.lua."""

from __future__ import annotations

import logging
import secrets
import threading
import time

from redis import Redis
from redis.exceptions import RedisError

from tasks import keys

RETRY_PAUSE_SECONDS = 0.05
"""The pause between two tries. It is short, because without the subscription only writes show that this
worker is alive."""

LISTEN_SECONDS = 10.0
"""How long one wait for messages takes. None ever come."""

logger = logging.getLogger(__name__)


class Lifeline:
    """A subscription that lasts as long as the process, in a thread of its own."""

    def __init__(self, redis: Redis, worker: str) -> None:
        """redis: its pool needs a connection more, which is never given back."""
        self._redis = redis
        self.channel = keys.lifeline(worker, secrets.token_hex(8))
        """No other process has this channel, not even a later one of the same worker."""
        self._thread = threading.Thread(target=self._run, name="lifeline", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                self._hold()
            except RedisError as error:
                logger.warning("the lifeline broke, subscribing again: %s", error)
                # A subscription that lasted for a while is renewed at once.
                time.sleep(max(0.0, began + RETRY_PAUSE_SECONDS - time.monotonic()))

    def _hold(self) -> None:
        """Holds the subscription. Raises RedisError as soon as the connection is lost."""
        with self._redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
            subscription.subscribe(self.channel)
            while True:
                subscription.get_message(timeout=LISTEN_SECONDS)
