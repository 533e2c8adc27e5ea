"""Moves batches on. Every web process has a feeder, so any of them may die at any moment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from redis.exceptions import RedisError

from tasks.batch import BatchError
from tasks.batches import Batches
from tasks.connection import is_away
from tasks.errors import BatchNotFoundError, FilesDirError
from tasks.files import Files
from tasks.store import Store
from web.openai.batches.steps import Steps

LONGEST_PAUSE_SECONDS = 1.0
"""So soon another process sees a batch that was created. The process that created it sees it at once."""

SHORTEST_PAUSE_SECONDS = 0.02

SWEEP_SECONDS = 600.0
"""The time between two searches for contents on disk that belong to no file."""

logger = logging.getLogger(__name__)


class BatchFeeder:
    """Gives turns to batches that are due. Its thread is a greenlet in a gevent process."""

    def __init__(self, store: Store, batches: Batches, files: Files) -> None:
        self._batches = batches
        self._files = files
        self._steps = Steps(store, batches, files)
        self._wake = threading.Event()
        self._swept_at = float("-inf")

    def start(self) -> None:
        threading.Thread(target=self._run, name="batches", daemon=True).start()

    def wake(self) -> None:
        """Lets it look at once, because a batch was created or cancelled."""
        self._wake.set()

    def turn(self) -> float:
        """Moves due batches on. Returns the seconds until another one is due. Raises RedisError."""
        turn = self._batches.take()
        for batch_id in turn.lost:
            logger.error("the record of %s is missing or damaged, so the batch is lost", batch_id)
        pauses = [self._move_on(batch_id) for batch_id in turn.batch_ids]
        try:
            self._clean(turn.on_disk)
        except FilesDirError as error:
            logger.error("contents of removed files may be left, and are removed later: %s", error)
        due_in = LONGEST_PAUSE_SECONDS if turn.due_in is None else turn.due_in
        return min([due_in, *pauses])

    def _move_on(self, batch_id: str) -> float:
        """Returns the seconds until the batch's next turn."""
        try:
            return self._steps.move_on(self._batches.get(batch_id))
        except BatchNotFoundError:
            logger.error("%s was deleted in Redis", batch_id)
        except RedisError as error:
            if is_away(error):
                raise
            self._fail(batch_id)
        except FilesDirError as error:
            logger.error("%s waits: %s", batch_id, error)
            self._batches.rest(batch_id, LONGEST_PAUSE_SECONDS)
        except Exception:  # noqa: BLE001
            self._fail(batch_id)  # It is logged there. The other batches go on.
        return LONGEST_PAUSE_SECONDS

    def _clean(self, removed: Sequence[str]) -> None:
        """Removes contents on disk: of files that were removed, and now and then of files that never were."""
        for file_id in removed:
            self._files.remove_contents(file_id)
        if time.monotonic() - self._swept_at > SWEEP_SECONDS:
            self._swept_at = time.monotonic()
            self._files.remove_orphans()

    def _fail(self, batch_id: str) -> None:
        """Ends a batch that cannot be moved on. Called while an exception is handled."""
        logger.exception("%s cannot go on", batch_id)
        reason = BatchError("internal_error", "an unexpected error; the server's log has the details")
        self._batches.close(batch_id, "failed", [reason])
        self._batches.end(batch_id)

    def _run(self) -> None:
        pause = 0.0
        while True:
            self._wake.wait(max(SHORTEST_PAUSE_SECONDS, min(pause, LONGEST_PAUSE_SECONDS)))
            self._wake.clear()
            try:
                pause = self.turn()
            except RedisError as error:
                logger.warning("the batches could not reach Redis: %s", error)
                pause = LONGEST_PAUSE_SECONDS
            except Exception:
                logger.exception("the batches' feeder goes on after an error")
                pause = LONGEST_PAUSE_SECONDS
