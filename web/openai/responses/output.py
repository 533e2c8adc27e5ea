"""Divides the output of a response into items, and tells of them in events, as the text comes.

Without tools there is one message, which begins with the first token. With tools, each call is an item, and
text after a call begins another message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any

from tasks.answers import TokenLogprobs
from tasks.job import Choice, FinishReason, Job
from web.openai.ids import RESPONSE, completion_id
from web.openai.responses.items import (
    CALL,
    MESSAGE,
    ItemStatus,
    OutputItemBody,
    OutputMessageBody,
    call_item,
    output_item_id,
    output_message,
    output_text,
)
from web.openai.tool_output import ToolCallBody, ToolOutput

ItemEvent = dict[str, Any]
"""An event without its number."""


class OutputItems:
    """The items of one output. It takes the texts of the log in their order."""

    def __init__(self, job: Job) -> None:
        self._response_id = completion_id(RESPONSE, job.id)
        self._tools = ToolOutput.of(job, 0)
        self._done: list[OutputItemBody] = []
        self._text: StringIO | None = None
        """The text of the message that is being written. Log probabilities are not kept twice."""

    def add(self, text: str, logprobs: Sequence[TokenLogprobs] = ()) -> list[ItemEvent]:
        """Returns the events of tokens. Their text is empty if it is held back."""
        if self._tools is None:
            return self._write(text, logprobs)
        return self._parts(self._tools.push(text))

    def so_far(self, choice: Choice) -> list[OutputItemBody]:
        """Returns the items of an output that goes on."""
        if self._text is None:
            return self._done
        return [*self._done, self._message(self._text, "in_progress", choice.logprobs)]

    def finish(self, choice: Choice, status: ItemStatus) -> tuple[list[OutputItemBody], list[ItemEvent]]:
        """Returns all items of an output that has ended, and the events of its end.

        status: of the message that was being written.
        """
        events = [] if self._tools is None else self._parts(self._tools.finish())
        is_whole = choice.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        if is_whole and self._text is None and not self._done:
            events += self._write("")
        events += self._end_message(status, choice.logprobs)
        return self._done, events

    def _parts(self, parts: Iterable[str | ToolCallBody]) -> list[ItemEvent]:
        events: list[ItemEvent] = []
        for part in parts:
            if not isinstance(part, str):
                events += self._end_message("completed") + self._call(part)
            elif self._text is not None or not self._done or part.strip():
                events += self._write(part)  # A line end after the last call is no message.
        return events

    def _write(self, text: str, logprobs: Sequence[TokenLogprobs] = ()) -> list[ItemEvent]:
        events: list[ItemEvent] = []
        if self._text is None:
            self._text = StringIO()
            item = output_message(self._id(MESSAGE), [], "in_progress")
            events = [
                self._of_item("response.output_item.added", item),
                self._of_text("response.content_part.added", part=output_text("")),
            ]
        self._text.write(text)
        # The text of a token may be held back. Its logprobs come at once.
        if text or logprobs:
            events.append(self._of_text("response.output_text.delta", delta=text, logprobs=logprobs))
        return events

    def _end_message(self, status: ItemStatus, logprobs: Sequence[TokenLogprobs] = ()) -> list[ItemEvent]:
        if self._text is None:
            return []
        item = self._message(self._text, status, logprobs)
        [part] = item["content"]
        events = [
            self._of_text("response.output_text.done", text=part["text"], logprobs=logprobs),
            self._of_text("response.content_part.done", part=part),
            self._of_item("response.output_item.done", item),
        ]
        self._done.append(item)
        self._text = None
        return events

    def _call(self, call: ToolCallBody) -> list[ItemEvent]:
        item = call_item(self._id(CALL), call)
        place = {"item_id": item["id"], "output_index": len(self._done)}
        name, arguments = "response.function_call_arguments", item["arguments"]
        events = [
            self._of_item("response.output_item.added", {**item, "arguments": "", "status": "in_progress"}),
            {"type": f"{name}.delta", **place, "delta": arguments},
            {"type": f"{name}.done", **place, "arguments": arguments},
            self._of_item("response.output_item.done", item),
        ]
        self._done.append(item)
        return events

    def _message(
        self, text: StringIO, status: ItemStatus, logprobs: Sequence[TokenLogprobs]
    ) -> OutputMessageBody:
        return output_message(self._id(MESSAGE), [text.getvalue()], status, logprobs)

    def _id(self, prefix: str) -> str:
        return output_item_id(self._response_id, prefix, len(self._done))

    def _of_item(self, name: str, item: OutputItemBody) -> ItemEvent:
        return {"type": name, "output_index": len(self._done), "item": item}

    def _of_text(self, name: str, **fields: object) -> ItemEvent:
        place = {"item_id": self._id(MESSAGE), "output_index": len(self._done), "content_index": 0}
        return {"type": name, **place, **fields}
