"""Holds a reply until a job has ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from math import inf

from web.errors import GoingAwayError
from web.relay.reader import LOG_END, Reader
from web.services import services
from web.serving.disconnects import on_disconnect, request_socket


def place_to_wait(owner: str, seconds: float | None) -> AbstractContextManager[None]:
    """Returns one of the owner's places for streams and waiting calls, if the call waits at all.

    Entering it raises TooManyStreamsError.
    """
    return services().streams.hold(owner) if seconds else nullcontext()


def wait_for_end(job_id: str, seconds: float) -> None:
    """Returns when the job has ended, time is up, the client has left or the server stops."""
    reader = make_reader(job_id, after=LOG_END, until=time.monotonic() + seconds)
    with on_disconnect(request_socket(), reader.leave), suppress(GoingAwayError):
        _exhaust(reader)


def wait_for_all(job_ids: Sequence[str]) -> bool:
    """Returns True when all jobs have ended, False when the client has left. Raises JobNotFoundError.

    It continues while the server stops, because the client has no other way to get the result.
    """
    readers = [make_reader(job_id, after=LOG_END, survives_shutdown=True) for job_id in job_ids]

    def leave() -> None:
        for reader in readers:
            reader.leave()

    with on_disconnect(request_socket(), leave):
        for reader in readers:
            _exhaust(reader)
    return not any(reader.has_left for reader in readers)


def make_reader(
    job_id: str,
    *,
    after: int = 0,
    until: float = inf,
    survives_shutdown: bool = False,
) -> Reader:
    """Returns a reader with the services of the request's app."""
    s = services()
    return Reader(
        s.hub,
        s.log,
        job_id,
        after=after,
        until=until,
        survives_shutdown=survives_shutdown,
    )


def _exhaust(reader: Reader) -> None:
    for _ in reader:
        pass
