"""Cancels jobs that nobody reads any more, so that no GPU works for a client that has left."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from redis.exceptions import RedisError

from tasks import keys
from tasks.errors import JobNotFoundError
from tasks.store import Store

RESUME_SECONDS = 5.0
"""How long a client whose connection broke may take to come back, in any web process: to resume a stream with
`Last-Event-ID`, or to repeat a call with its `Idempotency-Key`."""

logger = logging.getLogger(__name__)


def cancel_unless_resumed(store: Store, job_ids: Sequence[str]) -> None:
    """Cancels those of the jobs that have no reader in any process in RESUME_SECONDS from now.

    If this process dies before, the jobs go on to their ends.
    """
    timer = threading.Timer(RESUME_SECONDS, _cancel_unread, (store, job_ids))
    timer.daemon = True
    timer.start()


def _cancel_unread(store: Store, job_ids: Sequence[str]) -> None:
    for job_id in job_ids:
        try:
            [(_, readers)] = store.redis.pubsub_numsub(keys.events(job_id))
            if not readers:
                store.cancel(job_id)
        except JobNotFoundError:
            continue  # It has ended, and was deleted.
        except RedisError as error:
            logger.warning("%s has no reader any more, and was not cancelled: %s", job_id, error)
