"""Turns a job's log into the typed events of a response.

The events of a log entry, and so their numbers, depend on what was submitted and on the log up to that entry.
So every reader at any time gets the same ones. A takeover by another worker adds an entry to the log, but no
event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tasks.job import Job
from tasks.log import StatusEntry, TokenEntry
from web.openai.divided_output import Added
from web.openai.responses.bodies import ResponseStatus, has_begun, item_status, opening, response
from web.openai.responses.event_bodies import ResponseEvent
from web.openai.responses.origin import origin_of_response
from web.openai.responses.output import ItemEvent, OutputItems
from web.relay.events import Event

LAST_EVENTS = {"completed": "response.completed", "failed": "response.failed"}
"""By a response's final status. The others end with `response.incomplete`."""


class ResponseEvents:
    """The events of one response. An instance takes those of the log in order, from the first one on."""

    def __init__(self, job: Job) -> None:
        self.count = 0
        """How many events there were so far, which is the number of the next one."""
        self.ended: Job | None = None
        """The job, once it has ended."""
        self._job = job
        self._items = OutputItems(job)

    def first(self) -> list[ResponseEvent]:
        """Returns the events that come before those of the log."""
        is_background = origin_of_response(self._job)["background"]
        names = ["response.created", *(["response.queued"] if is_background else [])]
        return self._numbered(self._opening(name, "queued") for name in names)

    def of(self, event: Event) -> list[ResponseEvent]:
        """Returns the events of an event of the log."""
        if event.job is not None:
            self.ended = event.job
            return self._numbered(self._end(event.job))
        entry = event.entry
        if isinstance(entry, StatusEntry) and entry.attempt == 1:
            return self._numbered([self._opening("response.in_progress", "in_progress")])
        return self._numbered(self._tokens(entry)) if isinstance(entry, TokenEntry) else []

    def _tokens(self, entry: TokenEntry) -> list[ItemEvent]:
        if not has_begun(entry.token_ids, entry.text):
            return []
        return self._items.add(Added.of_entry(entry))

    def _end(self, job: Job) -> Iterator[dict[str, Any]]:
        body = response(job)
        _, events = self._items.finish(job.output[0], item_status(body["status"]))
        yield from events
        yield {"type": LAST_EVENTS.get(body["status"], "response.incomplete"), "response": body}

    def _opening(self, name: str, status: ResponseStatus) -> dict[str, Any]:
        return {"type": name, "response": opening(self._job, status)}

    def _numbered(self, events: Iterable[dict[str, Any]]) -> list[Any]:
        numbered = [{**event, "sequence_number": number} for number, event in enumerate(events, self.count)]
        self.count += len(numbered)
        return numbered


def count_events(job: Job, entries: Iterable[str]) -> int:
    """Returns how many events the response of an ended job has. entries: its whole log."""
    events = ResponseEvents(job)
    events.first()
    *all_but_last, last = entries
    for seq, entry in enumerate(all_but_last, 1):
        events.of(Event(seq, entry))
    events.of(Event(len(all_but_last) + 1, last, job))
    return events.count
