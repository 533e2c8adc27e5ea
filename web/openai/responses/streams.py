"""Streams of responses: typed events as Server-Sent Events, each with its sequence number as its id."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress

from flask import Response

from tasks.errors import JobNotFoundError
from tasks.job import Job
from web.abandoned import cancel_unless_resumed
from web.calls import CallJobs
from web.endpoints import EVENT_STREAM
from web.openai.responses.event_bodies import ResponseEvent
from web.openai.responses.events import ResponseEvents
from web.openai.responses.origin import origin_of_response
from web.openai.streams import KEEP_ALIVE_LINE, UntilClosed, raise_early_failure
from web.relay import sse
from web.relay.reader import Reader
from web.render import to_json
from web.services import services
from web.serving.disconnects import on_disconnect, request_socket
from web.streaming import limited_sends
from web.waiting import make_reader


def start(call: CallJobs, until_closed: UntilClosed, *, is_background: bool) -> Response:
    """Returns the stream of the response that a call has submitted, with the name of its job.

    In the background, a response that fails at once is a stream as well, because somebody may read it later.
    """

    def response() -> Response:
        [job_id] = call.ids
        if not is_background:
            raise_early_failure(job_id)
        return stream(services().store.get(job_id), until_closed)

    return call.answered(response)


def stream(job: Job, until_closed: UntilClosed, starting_after: int | None = None) -> Response:
    """Returns a response's events after a given one, to the end.

    If its client leaves before that, and nobody reads the response soon after, its job is cancelled. In the
    background it goes on. until_closed: see `web.openai.streams.place`.
    """
    store = services().store
    first_number = 0 if starting_after is None else starting_after + 1
    reader, events = make_reader(job.id, survives_shutdown=True), ResponseEvents(job)
    messages = _messages(reader, events, first_number, request_socket())
    response = until_closed(Response(messages, mimetype=EVENT_STREAM, headers=sse.HEADERS))

    def cancel_the_rest() -> None:
        if events.ended is None:
            cancel_unless_resumed(store, [job.id])

    if not origin_of_response(job)["background"]:
        response.call_on_close(cancel_the_rest)
    return response


def _messages(
    reader: Reader, events: ResponseEvents, first_number: int, client: socket.socket | None
) -> Iterator[bytes]:
    with on_disconnect(client, reader.leave), limited_sends(client), suppress(JobNotFoundError):
        yield KEEP_ALIVE_LINE  # Sends the headers, so that a client knows it is connected.
        yield from _encoded(events.first(), first_number)
        for news in reader:
            if not news:
                yield KEEP_ALIVE_LINE
            yield from _encoded([found for event in news for found in events.of(event)], first_number)


def _encoded(found: Sequence[ResponseEvent], first_number: int) -> Iterator[bytes]:
    """Yields the events from a number on, as one piece."""
    new = [event for event in found if event["sequence_number"] >= first_number]
    if new:
        yield b"".join(sse.message(event["sequence_number"], event["type"], to_json(event)) for event in new)
