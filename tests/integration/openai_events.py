"""Server-Sent Events of responses, checked against the types of OpenAI's SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

Raw = dict[str, Any]

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
KINDS: dict[str, TypeAdapter[Any]] = {
    "response": TypeAdapter(Response),
    "list": TypeAdapter(ResponseItemList),
}
"""By a body's `object`, which events do not have."""


def raw_events(text: str) -> list[Raw]:
    """Returns the events of a stream. Checks that each has its number as its id, and the type of its data."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            event = json.loads(lines["data"])
            assert (lines["event"], lines["id"]) == (event["type"], str(event["sequence_number"]))
            found.append(event)
    return found


def assert_as_the_sdk(raw: Raw) -> None:
    """Checks an event or a response: strictly valid, with no field that the SDK's types do not know."""
    known = KINDS.get(raw.get("object", ""), EVENT)
    parsed = known.validate_python(raw, strict=True)
    assert parsed.model_dump(exclude_unset=True, by_alias=True) == raw
    assert [name for model in _models(parsed) for name in model.model_extra or ()] == []


def assert_whole(events: list[Raw]) -> None:
    """Checks a stream from its first event on: numbered without gaps, ended once, with its whole output."""
    for event in events:
        assert_as_the_sdk(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    ends = [event for event in events if "response" in event and event["response"]["usage"] is not None]
    assert ends == events[-1:]
    output = events[-1]["response"]["output"]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == output
    for index, item in enumerate(output):
        deltas = [event["delta"] for event in events if "delta" in event and event["output_index"] == index]
        is_call = item["type"] == "function_call"
        whole = item["arguments"] if is_call else "".join(part["text"] for part in item["content"])
        assert "".join(deltas) == whole


def _models(value: Any) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        for name in value.model_fields_set:
            yield from _models(getattr(value, name))
    elif isinstance(value, list):
        for one in value:
            yield from _models(one)
