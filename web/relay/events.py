"""The events of a job, as they go from its log to its readers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from tasks.job import Job
from tasks.log import DoneEntry, Entry, event, parse_entry
from web.answers import DoneEvent, JobBody, ShortJobBody
from web.render import job_body, to_json

FINAL_TEXT = b"\x81"
"""RFC 6455, 5.2: a text message in one frame."""


@dataclass(frozen=True)
class Event:
    """One event of the contract. `json` is the whole event, except that of `done` before it has its job."""

    seq: int
    type: str
    json: str

    @cached_property
    def sse(self) -> bytes:
        return f"id: {self.seq}\nevent: {self.type}\ndata: {self.json}\n\n".encode()

    @cached_property
    def frame(self) -> bytes:
        """As a WebSocket frame. A server's frames are not masked, hence the same for every reader."""
        payload = self.json.encode()
        if len(payload) < 126:
            length = bytes([len(payload)])
        elif len(payload) < 1 << 16:
            length = b"\x7e" + len(payload).to_bytes(2)
        else:
            length = b"\x7f" + len(payload).to_bytes(8)
        return FINAL_TEXT + length + payload


@dataclass(frozen=True)
class Batch:
    """Successive log entries, the first of them number `first_seq`.

    A published one is shared by all readers of the process, hence rendered once.
    """

    first_seq: int
    entries: Sequence[Entry]

    @classmethod
    def parse(cls, message: str) -> Batch:
        """A published message: `[first seq, entry, ...]`. Raises ValueError."""
        try:
            first_seq, *entries = json.loads(message)
            return cls(int(first_seq), [parse_entry(entry) for entry in entries])
        except TypeError as error:
            raise ValueError(f"not a published message: {error}") from None

    @cached_property
    def events(self) -> list[Event]:
        return [_render(seq, entry) for seq, entry in enumerate(self.entries, self.first_seq)]

    @property
    def ends_job(self) -> bool:
        return bool(self.entries) and isinstance(self.entries[-1], DoneEntry)


LONG_FIELDS = frozenset({"request", "output"})
"""Those of a job that have no bound worth the name; a short `done` lacks them."""


def done_event(done: Event, job: Job, base_url: str, *, is_short: bool = False) -> Event:
    """`done` with its job, or with the job without its long fields."""
    body: JobBody | ShortJobBody = job_body(job, base_url)
    if is_short:
        short = {name: value for name, value in body.items() if name not in LONG_FIELDS}
        body = cast("ShortJobBody", short)
    fields: DoneEvent = {"seq": done.seq, "type": "done", "status": job.status, "job": body}
    return Event(done.seq, done.type, to_json(fields))


def _render(seq: int, entry: Entry) -> Event:
    fields = event(seq, entry)
    return Event(seq, fields["type"], to_json(fields))
