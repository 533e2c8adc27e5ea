"""The events of a job, as they go from its log to its readers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tasks.job import Job
from tasks.log import DoneEntry, Entry, StatusEntry, TokenEntry, parse_entry

TYPES: dict[type[Entry], str] = {StatusEntry: "status", TokenEntry: "token", DoneEntry: "done"}
"""The contract's names of events."""

_decode = json.JSONDecoder().raw_decode


@dataclass(slots=True)
class Event:
    """Entry number `seq` of a log.

    entry_json: the log entry, unchanged.
    job: the ended job, on a reader's last event only. The log does not have it.
    """

    seq: int
    entry_json: str
    job: Job | None = field(default=None, compare=False, repr=False)
    _entry: Entry | None = field(default=None, compare=False, repr=False)
    _shared: dict[object, bytes] = field(default_factory=dict, compare=False, repr=False)

    @property
    def entry(self) -> Entry:
        """The parsed entry."""
        if self._entry is None:
            self._entry = parse_entry(self.entry_json)
        return self._entry

    @property
    def type(self) -> str:
        return TYPES[type(self.entry)]

    def with_job(self, job: Job) -> Event:
        return Event(self.seq, self.entry_json, job, self._entry)

    def shared(self, key: object, encode: Callable[[], bytes]) -> bytes:
        """Returns the first result of `encode` for this key, so an event is encoded once for all readers."""
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = encode()
        return found


@dataclass(frozen=True, slots=True)
class Batch:
    """Successive events. `first_seq` is the number of the first one. All readers share a published batch."""

    first_seq: int
    events: list[Event]

    @classmethod
    def of_entries(cls, first_seq: int, entries: Iterable[str]) -> Batch:
        """Returns the events of log entries."""
        return cls(first_seq, [Event(seq, entry) for seq, entry in enumerate(entries, first_seq)])

    @classmethod
    def parse(cls, message: str) -> Batch:
        """Returns the events of a published message: `[first seq,entry,...]`. Raises ValueError."""
        head, _, _ = message.partition(",")
        first_seq, position = int(head.removeprefix("[")), len(head)
        events: list[Event] = []
        try:
            while message.startswith(",", position):
                fields, end = _decode(message, position + 1)
                entry = parse_entry(fields)
                events.append(Event(first_seq + len(events), message[position + 1 : end], None, entry))
                position = end
        except TypeError as error:
            raise ValueError(f"not a published message: {error}") from None
        if message[position:] != "]":
            raise ValueError("not a published message: it does not end with its entries")
        return cls(first_seq, events)

    @property
    def ends_job(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1].entry, DoneEntry)
