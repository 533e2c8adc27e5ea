"""What the hub knows of a job with readers: its channel, and for each reader what it has not taken yet."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tasks.job import Job
from web.relay.events import Batch

MAX_BATCHES = 128
"""How many batches may wait for one reader: some seconds of a fast job. After that, it reads the log."""


class Subscription:
    """One reader's subscription to the hub.

    receive: takes a batch in the hub's greenlet, at once, and returns whether it did. It is only called while
        the reader waits in `take` and nothing is queued for it. So most batches need no switch of greenlets.
    """

    __slots__ = ("_batches", "_is_waiting", "_must_read_log", "_news", "channel", "receive")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.receive: Callable[[Batch], bool] | None = None
        self._news = threading.Event()
        self._batches: list[Batch] = []
        self._is_waiting = False
        self._must_read_log = False

    def take(self, timeout: float) -> list[Batch] | None:
        """Waits for batches, `timeout` seconds at most.

        None means: read the log. An empty list means that time is up or somebody called `wake`.
        """
        if not self._news.is_set():
            self._is_waiting = True
            self._news.wait(timeout)
            self._is_waiting = False
        # Cleared first: what comes from now on sets it again.
        self._news.clear()
        batches = None if self._must_read_log else self._batches
        if self._batches:
            self._batches = []
        self._must_read_log = False
        return batches

    def offer(self, batch: Batch) -> None:
        if self._is_waiting and self.receive is not None and self.receive(batch):
            return
        if len(self._batches) >= MAX_BATCHES:
            self._batches = []
            self._must_read_log = True
        elif not self._must_read_log:
            self._batches.append(batch)
        self._notify()

    def must_read_log(self) -> None:
        self._must_read_log = True
        self._notify()

    def wake(self) -> None:
        self._notify()

    def _notify(self) -> None:
        self._is_waiting = False
        self._news.set()


class Channel:
    """A job's channel and the readers on it."""

    __slots__ = ("_final_job", "_loading", "is_confirmed", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions: set[Subscription] = set()
        self.is_confirmed = False
        self._final_job: Job | None = None
        self._loading = threading.Lock()

    def final_job(self, load: Callable[[], Job]) -> Job:
        """Returns the ended job: the first reader loads it, and it is kept while there are readers."""
        with self._loading:
            if self._final_job is None:
                self._final_job = load()
            return self._final_job
