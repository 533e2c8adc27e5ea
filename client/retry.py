"""When the client tries a call again, and for how long."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable

from client.errors import ClientError

OnRetry = Callable[[ClientError], None]
"""Is called with each failure that the client will retry."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0


NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""Reasons that versions of OpenSSL give if a server answers a TLS handshake without TLS."""


def is_final(failure: BaseException) -> bool:
    """Returns whether a connection failed for a reason that stays: a wrong certificate, or no TLS at all."""
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        if isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


class RetryPolicy:
    """Exponential backoff with jitter, limited to `seconds` from the first failure in a row."""

    def __init__(self, seconds: float, on_retry: OnRetry | None = None) -> None:
        self._seconds = seconds
        self._on_retry = on_retry
        self.reset()

    def reset(self) -> None:
        """A try succeeded: the next failure is the first of a new row."""
        self._pause = FIRST_PAUSE_SECONDS
        self._deadline: float | None = None

    def wait_for_retry(self, error: ClientError, at_least: float = 0.0) -> bool:
        """Sleeps until the next try; returns False at once where the time left does not suffice.

        error: why the try failed. at_least: seconds, as the server's `Retry-After` asks.
        """
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._seconds
        # With jitter, so that a thousand clients of a restarted server do not come all at once.
        seconds = max(at_least, self._pause * random.uniform(0.5, 1.0))
        if now + seconds > self._deadline:
            return False
        if self._on_retry is not None:
            self._on_retry(error)
        time.sleep(seconds)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        return True
