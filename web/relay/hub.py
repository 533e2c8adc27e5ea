"""The hub: one pub/sub connection per web process, shared by every reader in it.

A subscriber gets two things: batches of new entries, and the instruction to read the log. It must read the
log whenever it may have missed messages: when Redis confirms its subscription, at first and after each
reconnect, and when its queue was full. So a lost message, a slow reader and the race at the start are one
case.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hiredis import Reader
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import ConnectionError, InvalidResponse, RedisError, ResponseError
from redis.retry import Retry

from tasks import keys
from tasks.failover import connection_class
from web.relay.events import Batch
from web.relay.subscriptions import Channel, Subscription

PING_SECONDS = 5.0
"""After this much silence the hub sends a PING. After twice as much it gives the connection up."""

TIMEOUT_SECONDS = 2.0
"""The time-out for connecting and for sending."""

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
"""The longest pause between attempts to reconnect. A stream pauses at most this much longer than Redis."""

CHANNELS_PER_COMMAND = 500
READ_BYTES = 64 * 1024
DELIVERIES_PER_TURN = 100
"""The hub's greenlet lets others run after giving readers this many batches in a row, about a millisecond."""

logger = logging.getLogger(__name__)


class Hub:
    """One greenlet reads the connection. It starts with the first subscriber."""

    def __init__(self, redis_url: str) -> None:
        pool = ConnectionPool.from_url(
            redis_url,
            connection_class=connection_class(redis_url),
            decode_responses=True,
            protocol=2,  # redis-py logs each push message of RESP3, which costs time.
            socket_connect_timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            socket_keepalive=True,
            health_check_interval=0,
            retry=Retry(NoBackoff(), 0),  # A reconnect by redis-py itself would lose messages silently.
        )
        self._connection: Any = pool.make_connection()
        self._is_connected = False
        self._channels: dict[str, Channel] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self.is_closing = False

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[Subscription]:
        """Subscribes for the block. If Redis cannot be reached, the hub subscribes when it is back."""
        name = keys.events(job_id)
        subscription = self._enter(name)
        try:
            yield subscription
        finally:
            self._leave(name, subscription)

    def close(self) -> None:
        """Wakes every reader, because the server stops and each must tell its client."""
        self.is_closing = True
        with self._lock:
            subscriptions = [s for channel in self._channels.values() for s in channel.subscriptions]
        for subscription in subscriptions:
            subscription.wake()

    def stop(self) -> None:
        """Closes the connection for good."""
        self._stopped.set()
        self._disconnect()
        if self._thread:
            self._thread.join()

    def _enter(self, name: str) -> Subscription:
        with self._lock:
            channel = self._channels.get(name)
            if channel is None:
                channel = self._channels[name] = Channel()
                self._send("SUBSCRIBE", name)
            subscription = Subscription(channel)
            channel.subscriptions.add(subscription)
            if channel.is_confirmed:
                subscription.must_read_log()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
                self._thread.start()
            return subscription

    def _leave(self, name: str, subscription: Subscription) -> None:
        with self._lock:
            subscription.channel.subscriptions.discard(subscription)
            if not subscription.channel.subscriptions:
                del self._channels[name]
                self._send("UNSUBSCRIBE", name)

    def _send(self, *command: str) -> None:
        """Sends a command. The caller holds the lock: commands have the order of changes to `_channels`."""
        if self._is_connected:
            try:
                self._connection.send_command(*command, check_health=False)
            except RedisError:
                self._is_connected = False  # redis-py has closed it, which wakes the listener.

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stopped.is_set():
            try:
                self._connect()
                pause = FIRST_PAUSE_SECONDS
                self._listen()
            except (RedisError, OSError) as error:
                if not self._stopped.is_set():
                    logger.warning("the pub/sub connection is lost, connecting again: %s", error)
            except Exception:
                # Without this greenlet every stream of the process would stop.
                logger.exception("the hub failed, connecting again")
            self._disconnect()
            self._stopped.wait(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _connect(self) -> None:
        self._connection.connect()
        with self._lock:
            names = list(self._channels)
            for start in range(0, len(names), CHANNELS_PER_COMMAND):
                part = names[start : start + CHANNELS_PER_COMMAND]
                self._connection.send_command("SUBSCRIBE", *part, check_health=False)
            self._is_connected = True

    def _disconnect(self) -> None:
        with self._lock:
            self._is_connected = False
            self._connection.disconnect()
            for channel in self._channels.values():
                channel.is_confirmed = False

    def _listen(self) -> None:
        # Not by redis-py's read_response, which takes several times as long as hiredis for a message.
        reader = Reader(encoding="utf-8", protocolError=InvalidResponse, replyError=ResponseError)
        connected = self._connection._get_socket()
        is_asked = False
        deliveries = 0
        while True:
            try:
                connected.settimeout(PING_SECONDS)
                data = connected.recv(READ_BYTES)
            except TimeoutError:
                if is_asked:
                    raise
                is_asked = True
                with self._lock:
                    self._send("PING")
                continue
            if not data:
                raise ConnectionError("Redis has closed the connection")
            is_asked = False
            reader.feed(data)
            while (message := reader.gets()) is not False:
                deliveries += self._handle(message)
                if deliveries >= DELIVERIES_PER_TURN:
                    deliveries = 0
                    time.sleep(0)

    def _handle(self, message: Any) -> int:
        """Passes a message on. Returns to how many readers, 1 for none.

        Raises ResponseError if it is Redis' refusal of a command.
        """
        if isinstance(message, Exception):
            raise message
        if not isinstance(message, list) or len(message) != 3:  # The answer to a PING.
            return 1
        kind, name, data = message
        if kind == "message":
            channel = self._channels.get(name)
            if channel is not None:
                return self._publish(name, channel, data)
        elif kind == "subscribe":
            with self._lock:
                channel = self._channels.get(name)
                if channel is None:
                    return 1
                channel.is_confirmed = True
                subscriptions = list(channel.subscriptions)
            for subscription in subscriptions:
                subscription.must_read_log()
        return 1

    def _publish(self, name: str, channel: Channel, message: str) -> int:
        subscriptions = list(channel.subscriptions)
        batch = _parse(name, message)
        for subscription in subscriptions:
            if batch is None:
                subscription.must_read_log()
            else:
                subscription.offer(batch)
        return len(subscriptions)


def _parse(name: str, message: str) -> Batch | None:
    """Returns None for a message that no script of ours has published."""
    try:
        return Batch.parse(message)
    except ValueError as error:
        logger.warning("%s: %s", name, error)
        return None
