"""A reader gets all events of a job after a given one, each once and in order, whatever happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from math import inf
from typing import Protocol

from redis.exceptions import ConnectionError, RedisError, TimeoutError

from tasks.errors import JobNotFoundError
from tasks.job import TERMINAL_STATUSES
from web.errors import GoingAwayError
from web.relay.events import Batch, Event
from web.relay.hub import Hub
from web.relay.job_log import JobLog
from web.relay.subscriptions import Subscription

KEEP_ALIVE_SECONDS = 10.0
"""The contract promises 15 s, and a read of the log that hangs may take 4 s."""

RETRY_SECONDS = 0.5
"""The pause between attempts to read the log while Redis cannot be reached."""

LOG_END = 2**62
"""A reader with this value as `after` gets no events and waits for the end. A larger value would overflow
Redis' list indexes."""

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes batches as they come, without a switch to the greenlet of their reader."""

    def push(self, batch: Batch) -> bool:
        """Takes a batch that does not end the job, in the hub's greenlet and without waiting.

        Returns False if that is not possible. Then the reader yields the batch.
        """

    def attend(self) -> None:
        """Does what `wake` was called for, in the reader's greenlet. It may wait, and may call `leave`."""


class Reader:
    """Iterates over lists of events. If one is empty, a keep-alive is due. A `done` event has its job.

    With a sink, it yields only what the sink does not take.

    The iteration ends after `done`, if an ended job has no events after `after`, after `leave`, and at
    `until` (time.monotonic). It raises JobNotFoundError if the job no longer exists, and GoingAwayError when
    the server stops, unless `survives_shutdown` says that this reader is served to its end.
    """

    def __init__(
        self,
        hub: Hub,
        log: JobLog,
        job_id: str,
        *,
        after: int = 0,
        until: float = inf,
        survives_shutdown: bool = False,
    ) -> None:
        self.sink: Sink | None = None
        self._hub = hub
        self._log = log
        self._job_id = job_id
        self._last = min(after, LOG_END)
        self._until = until
        self._survives_shutdown = survives_shutdown
        self.has_left = False
        self._is_finished = False
        self._read_log_at = inf
        self._keep_alive_at = time.monotonic() + KEEP_ALIVE_SECONDS
        self._subscription: Subscription | None = None

    def leave(self) -> None:
        """Ends the iteration, from another greenlet."""
        self.has_left = True
        self.wake()

    def wake(self) -> None:
        """Ends the reader's wait, so that its sink is asked to `attend`."""
        if self._subscription:
            self._subscription.wake()

    def __iter__(self) -> Iterator[list[Event]]:
        with self._hub.subscribe(self._job_id) as subscription:
            self._subscription = subscription
            if self._last == LOG_END:
                subscription.receive = _is_no_end
            elif self.sink:
                subscription.receive = self._receive
            last_at_keep_alive = self._last
            while not self._is_over():
                news = subscription.take(self._wait_seconds())
                if self.sink:
                    self.sink.attend()
                now = time.monotonic()
                if now >= self._keep_alive_at:
                    self._keep_alive_at = now + KEEP_ALIVE_SECONDS
                    # A publish may have been lost. If any came later, its number would have told.
                    if self._last == last_at_keep_alive:
                        self._read_log_at = now
                    last_at_keep_alive = self._last
                    yield []
                if news is None or now >= self._read_log_at:
                    yield from self._replay(subscription)
                else:
                    for batch in news:
                        yield from self._follow(subscription, batch)
                        del batch
                del news  # The next wait may be long.

    def _is_over(self) -> bool:
        if self._hub.is_closing and not self._survives_shutdown and not self._is_finished:
            raise GoingAwayError(retry_after=1)
        return self._is_finished or self.has_left or time.monotonic() >= self._until

    def _receive(self, batch: Batch) -> bool:
        """Gives the sink a batch that just continues the stream. The hub calls it while the reader waits."""
        assert self.sink is not None
        if batch.first_seq != self._last + 1 or batch.ends_job or not self.sink.push(batch):
            return False
        self._last += len(batch)
        return True

    def _wait_seconds(self) -> float:
        soonest = min(self._keep_alive_at, self._read_log_at, self._until)
        return max(0.0, soonest - time.monotonic())

    def _replay(self, subscription: Subscription) -> Iterator[list[Event]]:
        """Yields the log's events after the last one, page by page."""
        self._read_log_at = inf
        while not self._is_over():
            try:
                page = self._log.page(self._job_id, self._last)
            except (ConnectionError, TimeoutError) as error:
                self._read_later(error)
                return
            if page.status is None:
                raise JobNotFoundError(f"there is no job {self._job_id}")
            yield from self._deliver(subscription, page.batch)
            if not page.batch:
                self._is_finished = page.status in TERMINAL_STATUSES
            if page.is_last or self._read_log_at < inf:
                return

    def _follow(self, subscription: Subscription, batch: Batch) -> Iterator[list[Event]]:
        """Yields a published batch, or reads the log if an earlier batch is missing."""
        if batch.first_seq > self._last + 1:
            yield from self._replay(subscription)
        else:
            yield from self._deliver(subscription, batch)

    def _deliver(self, subscription: Subscription, batch: Batch) -> Iterator[list[Event]]:
        """Yields those events of a batch that are new to this reader."""
        if self._is_finished:
            return
        events = batch.events[self._last + 1 - batch.first_seq :]
        if events and batch.ends_job:
            try:
                job = subscription.channel.final_job(lambda: self._log.job(self._job_id))
            except (ConnectionError, TimeoutError) as error:
                self._read_later(error)
                return
            events = [*events[:-1], events[-1].with_job(job)]
        self._is_finished = batch.ends_job
        if events:
            self._last = events[-1].seq
            yield events

    def _read_later(self, error: RedisError) -> None:
        logger.debug("%s: the log cannot be read at present: %s", self._job_id, error)
        self._read_log_at = time.monotonic() + RETRY_SECONDS


def _is_no_end(batch: Batch) -> bool:
    """Receives all batches but the last one, and drops them: who waits for the end does not wake up."""
    return not batch.ends_job
