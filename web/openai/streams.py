"""Streams of completions: the chunks of one job, or those of several as they come."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

import gevent
from flask import Response
from gevent.queue import Queue

from tasks.errors import JobNotFoundError
from tasks.job import Job, Status
from web import auth
from web.abandoned import cancel_unless_resumed
from web.calls import CallJobs, JobFailedError
from web.openai import chunks
from web.openai.chunks import Chunks
from web.openai.parameters import StreamOptions
from web.relay import sse
from web.relay.events import Event
from web.relay.reader import Reader
from web.render import to_json
from web.services import services
from web.serving.disconnects import on_disconnect, request_socket
from web.streaming import held_until_closed, limited_sends
from web.waiting import make_reader

REFUSAL_SECONDS = 2.0
"""How long a stream waits for its first token before it answers 200. A job that fails sooner, such as one
with a prompt that is too long, is answered with a status of its own."""

KEEP_ALIVE_LINE = b": keep-alive\n"
"""A comment without an empty line. After the first id, OpenAI's SDK takes each empty line for the end of an
event, and cannot read an event without data."""

UntilClosed = Callable[[Response], Response]
"""Gives a response the place that is held for it; the place is left when the response is closed."""

News = tuple[int, list[Event] | BaseException | None]
"""What the reader at a place has: events (none for a keep-alive), the error that ended it, or its end."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a stream shows.

    jobs: one for each prompt.
    kind: the shape of its chunks.
    options: what it has beside them.
    after: the number of the last event that the client has seen. Only a stream of one job can be resumed.
    """

    jobs: Sequence[Job]
    kind: type[Chunks]
    options: StreamOptions
    after: int = 0

    @property
    def has_ids(self) -> bool:
        """Whether its messages have the numbers of events, which those of several jobs have not in common."""
        return len(self.jobs) == 1 and self.options.include_ids

    @property
    def keep_alive(self) -> bytes:
        return KEEP_ALIVE_LINE if self.has_ids else sse.KEEP_ALIVE_COMMENT


def place() -> AbstractContextManager[UntilClosed]:
    """Holds one of the owner's places for streams, until the response is closed that takes it over."""
    return held_until_closed(services().streams.hold(auth.owner()))


def start(call: CallJobs, kind: type[Chunks], options: StreamOptions, until_closed: UntilClosed) -> Response:
    """Returns the stream of the jobs that a call has submitted, with their names."""

    def response() -> Response:
        if len(call.ids) == 1:
            raise_early_failure(call.ids[0])
        jobs = [services().store.get(job_id) for job_id in call.ids]
        return stream(Completion(jobs, kind, options), until_closed)

    return call.answered(response)


def stream(completion: Completion, until_closed: UntilClosed) -> Response:
    """Returns a completion's chunks as Server-Sent Events, to the end.

    If its client leaves before that, and nobody reads the jobs soon after, they are cancelled.
    until_closed: see `place`.
    """
    store = services().store
    readers = [make_reader(job.id, survives_shutdown=True) for job in completion.jobs]
    first = completion.jobs[0]
    shapes = [
        completion.kind(job, first=first, place=place, includes_usage=completion.options.include_usage)
        for place, job in enumerate(completion.jobs)
    ]
    messages = _messages(readers, shapes, completion, request_socket())
    response = until_closed(Response(messages, mimetype="text/event-stream", headers=sse.HEADERS))

    def cancel_the_rest() -> None:
        left = [job.id for job, shape in zip(completion.jobs, shapes, strict=True) if shape.ended is None]
        if left:
            cancel_unless_resumed(store, left)

    response.call_on_close(cancel_the_rest)
    return response


def raise_early_failure(job_id: str) -> None:
    """Waits for the job's first token, at most REFUSAL_SECONDS. Raises JobFailedError if it fails before."""
    reader = make_reader(job_id, until=time.monotonic() + REFUSAL_SECONDS, survives_shutdown=True)
    with on_disconnect(request_socket(), reader.leave):
        for events in reader:
            for event in events:
                if event.job is not None and event.job.status is not Status.COMPLETED:
                    raise JobFailedError(event.job)
                if event.is_token:
                    return


def _messages(
    readers: Sequence[Reader],
    shapes: Sequence[Chunks],
    completion: Completion,
    client: socket.socket | None,
) -> Iterator[bytes]:
    def leave() -> None:
        for reader in readers:
            reader.leave()

    with on_disconnect(client, leave), limited_sends(client), suppress(JobNotFoundError):
        if completion.options.include_ids:
            yield completion.keep_alive  # Sends the headers, so that a client knows it is connected.
        for place, events in _interleaved(readers):
            if not events:
                yield completion.keep_alive
            found = b"".join(_encoded(shapes[place], event, completion) for event in events)
            if found:
                yield found
            ended = shapes[place].ended
            if ended is not None and ended.status is not Status.COMPLETED:
                failure = chunks.failure(ended, completion.kind.prompt_field)
                yield chunks.message(to_json(failure)) + chunks.DONE
                return
            if all(shape.ended for shape in shapes):
                yield _end(shapes, events[-1].seq, completion)
                return


def _encoded(shape: Chunks, event: Event, completion: Completion) -> bytes:
    found = shape.of(event)
    if not found or event.seq <= completion.after:
        return b""
    # The id comes with an event's last chunk. A client that has missed one of them gets all again.
    seq = event.seq if completion.has_ids else None
    return b"".join(map(chunks.message, found[:-1])) + chunks.message(found[-1], seq)


def _end(shapes: Sequence[Chunks], last_seq: int, completion: Completion) -> bytes:
    """Returns the usage, if it was asked for, and the last message."""
    jobs = [shape.ended for shape in shapes if shape.ended is not None]
    usage = chunks.message(shapes[0].usage(jobs)) if completion.options.include_usage else b""
    last = f"id: {last_seq}\n".encode() if completion.has_ids else b""
    return usage + last + chunks.DONE


def _interleaved(readers: Sequence[Reader]) -> Iterator[tuple[int, list[Event]]]:
    """Yields the events of all readers as they come, each with the place of its reader."""
    if len(readers) == 1:
        yield from ((0, events) for events in readers[0])
        return
    queue: Queue[News] = Queue(maxsize=2 * len(readers))
    greenlets = [gevent.spawn(_follow, place, reader, queue) for place, reader in enumerate(readers)]
    try:
        running = len(readers)
        while running:
            place, news = queue.get()
            if isinstance(news, BaseException):
                raise news
            if news is None:
                running -= 1
            else:
                yield place, news
    finally:
        gevent.killall(greenlets)


def _follow(place: int, reader: Reader, queue: Queue[News]) -> None:
    try:
        for events in reader:
            queue.put((place, events))
    except Exception as error:  # noqa: BLE001
        queue.put((place, error))  # It is raised in the greenlet of the stream.
    else:
        queue.put((place, None))
