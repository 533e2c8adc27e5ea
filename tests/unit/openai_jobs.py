"""Jobs of responses, and their logs, without Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tasks.job import Choice, FinishReason, Job, Status
from tasks.log import DoneEntry, Entry, StatusEntry, TokenEntry
from tasks.reasoning_marks import ReasoningMarks
from tasks.submission import Draft
from web.json_body import validated
from web.openai.responses.conversation import Earlier
from web.openai.responses.events import ResponseEvents
from web.openai.responses.parameters import ResponseParameters
from web.relay.events import Event

Raw = dict[str, Any]

WEATHER: Raw = {
    "type": "function",
    "name": "weather",
    "description": None,
    "parameters": {"type": "object", "properties": {"city": {"type": ["string", "null"], "default": None}}},
    "strict": True,
}
NO_EARLIER = Earlier()
OPENED = ReasoningMarks("<think>", "</think>", is_opened=True)
CLOSED = ReasoningMarks("<think>", "</think>", is_opened=False)


def queued(
    job_id: str = "job_a", earlier: Earlier = NO_EARLIER, marks: ReasoningMarks | None = None, **body: Any
) -> Job:
    """Returns the job of a response as it was submitted. Raises InvalidRequestError."""
    parameters = validated(ResponseParameters, {"input": "hello", **body})
    request = parameters.job(earlier.messages).model_dump(mode="json", exclude_none=True) | {"model": "m"}
    job = Draft.of(request, parameters.origin(earlier.turns)).job(job_id, "ada", 5.0)
    return replace(job, reasoning_marks=marks)


def running(job: Job, text: str) -> Job:
    return replace(job, status=Status.IN_PROGRESS, output=[Choice(0, text, [7] * bool(text))])


def ended(job: Job, text: str, reason: FinishReason = FinishReason.STOP) -> Job:
    whole = reason in (FinishReason.STOP, FinishReason.LENGTH)
    status = Status.COMPLETED if whole else Status.CANCELLED
    return replace(job, status=status, output=[Choice(0, text, [7], reason)], ended_at=9.0)


def events_of(job: Job, pieces: Sequence[str], end: Job | None = None) -> list[Any]:
    """Returns the events of a job's log. job: as it was submitted. end: the job once it has ended."""
    events = ResponseEvents(job)
    reason = None if end is None or end.status is Status.CANCELLED else end.output[0].finish_reason
    tokens = [TokenEntry(0, (7,), piece) for piece in pieces]
    if tokens and reason is not None:
        tokens[-1] = TokenEntry(0, (7,), pieces[-1], reason)
    entries: list[Entry] = [StatusEntry(1), *tokens, *([DoneEntry(end.status)] if end else [])]
    found = [*events.first()]
    for seq, entry in enumerate(entries, 1):
        is_last = end is not None and seq == len(entries)
        found += events.of(Event(seq, entry.encode(), end if is_last else None))
    return found
