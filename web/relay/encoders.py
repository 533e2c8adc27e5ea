"""Encodes events as the bytes that a reader gets. Each format is an encoder of the same events."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from tasks.job import Job
from tasks.log import event as contract_event
from web.answers import DoneEvent, JobBody, ShortJobBody
from web.relay import plain_tokens
from web.relay.events import Batch, Event
from web.render import job_body, to_json

LONG_FIELDS = frozenset({"request", "output"})
"""The fields of a job that may be very long; a short `done` event lacks them."""

Encoder = Callable[[Event], bytes]
"""Returns the bytes that a reader gets for an event; empty if its format has nothing for the event."""

Framing = Callable[[int, str, str], bytes]
"""Wraps an event for a transport, given its seq, its type and its JSON.

`sse.message` and `websocket_frames.text_message` are framings."""


class ContractEncoder:
    """Encodes events in the contract's JSON.

    base_url: scheme and host as the reader sees them, without a final slash.
    is_done_short: whether the job in the `done` event lacks its long fields.
    """

    def __init__(self, framing: Framing, base_url: str, *, is_done_short: bool = False) -> None:
        self._framing = framing
        self._base_url = base_url
        self._is_done_short = is_done_short

    def __call__(self, event: Event) -> bytes:
        if event.job is not None:  # The job's addresses differ from reader to reader.
            return self._framing(event.seq, event.type, self._done_json(event.seq, event.job))
        return event.shared(self._framing, self._encode)

    def batch(self, batch: Batch) -> bytes:
        """Returns all events of a batch that does not end its job."""
        return batch.shared(self._framing, self._encode_batch)

    def _encode(self, event: Event) -> bytes:
        return self._framing(event.seq, event.type, event_json(event))

    def _encode_batch(self, batch: Batch) -> bytes:
        if len(batch) == 1 and (plain := batch.plain[0]) is not None:  # Nearly every batch.
            return self._framing(batch.first_seq, "token", plain_tokens.event_json(batch.first_seq, plain))
        return b"".join(map(self, batch.events))

    def _done_json(self, seq: int, job: Job) -> str:
        body: JobBody | ShortJobBody = job_body(job, self._base_url)
        if self._is_done_short:
            short = {name: value for name, value in body.items() if name not in LONG_FIELDS}
            body = cast("ShortJobBody", short)
        fields: DoneEvent = {"seq": seq, "type": "done", "status": job.status, "job": body}
        return to_json(fields)


def event_json(event: Event) -> str:
    """Returns the contract's JSON of an event without its job."""
    if event.plain is not None:
        return plain_tokens.event_json(event.seq, event.plain)
    return to_json(contract_event(event.seq, event.entry))
