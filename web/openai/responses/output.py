"""Divides the output of a response into items, and tells of them in events, as the text comes.

A message begins with the first token if nothing divides the output. Otherwise the reasoning of a model that
thinks comes first, each call is an item, and text after a call begins another message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Literal

from tasks.answers import TokenLogprobs
from tasks.job import Choice, FinishReason, Job
from tasks.output_parts import Reasoning
from web.openai.divided_output import Added, DividedOutput, OutputPart
from web.openai.ids import RESPONSE, completion_id
from web.openai.responses.items import (
    CALL,
    MESSAGE,
    REASONING,
    ItemStatus,
    OutputItemBody,
    call_item,
    output_item_id,
    output_message,
    output_text,
    reasoning_item,
    reasoning_text,
)
from web.openai.tool_output import ToolCallBody

ItemEvent = dict[str, Any]
"""An event without its number."""


@dataclass(frozen=True, slots=True)
class _OpenItem:
    """The item that is being written. Log probabilities are not kept twice."""

    kind: Literal["reasoning", "message"]
    text: StringIO = field(default_factory=StringIO)


class OutputItems:
    """The items of one output. It takes the texts of the log in their order."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._response_id = completion_id(RESPONSE, job.id)
        self._output = DividedOutput.of(job, 0)
        self._done: list[OutputItemBody] = []
        self._open: _OpenItem | None = None
        self._logprobs: list[TokenLogprobs] = []
        """Those of tokens of the message whose text is held back."""

    def add(self, added: Added) -> list[ItemEvent]:
        """Returns the events of tokens. Their text is empty if it is held back."""
        if self._output is None:
            return self._write("message", added.text, added.logprobs)
        self._logprobs += self._output.answer_logprobs(added)
        return [*self._parts(self._output.push(added)), *self._left_logprobs()]

    def so_far(self, choice: Choice) -> list[OutputItemBody]:
        """Returns the items of an output that goes on."""
        if self._open is None:
            return self._done
        return [*self._done, self._item(self._open, "in_progress", self._message_logprobs(choice))]

    def finish(self, choice: Choice, status: ItemStatus) -> tuple[list[OutputItemBody], list[ItemEvent]]:
        """Returns all items of an output that has ended, and the events of its end.

        status: of the item that was being written.
        """
        events: list[ItemEvent] = []
        if self._output is not None:
            self._logprobs += self._output.last_answer_logprobs()
            events = self._parts(self._output.finish())
        is_whole = choice.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        if is_whole and self._open is None and not self._done:
            events += self._write("message", "")
        events += self._end_item(status, self._message_logprobs(choice))
        return self._done, events

    def _message_logprobs(self, choice: Choice) -> Sequence[TokenLogprobs]:
        """Returns those of the whole message so far."""
        output = DividedOutput.of(self._job, 0)
        if output is None or not choice.logprobs:
            return choice.logprobs
        found = [*output.answer_logprobs(Added.of_choice(choice)), *output.last_answer_logprobs()]
        return found[: len(found) - len(self._logprobs)]

    def _parts(self, parts: Iterable[OutputPart]) -> list[ItemEvent]:
        events: list[ItemEvent] = []
        for part in parts:
            if isinstance(part, Reasoning):
                events += self._write("reasoning", part.text)
            elif not isinstance(part, str):
                events += self._end_item("completed") + self._call(part)
            elif self._open is not None or not self._done or part.strip():
                # Otherwise it is a line end after the last call, which is no message.
                logprobs, self._logprobs = self._logprobs, []
                events += self._write("message", part, logprobs)
        return events

    def _left_logprobs(self) -> list[ItemEvent]:
        """Returns the event of tokens whose text is held back, if their message has begun."""
        if not self._logprobs or self._open is None or self._open.kind != "message":
            return []
        logprobs, self._logprobs = self._logprobs, []
        return self._write("message", "", logprobs)

    def _write(
        self, kind: Literal["reasoning", "message"], text: str, logprobs: Sequence[TokenLogprobs] = ()
    ) -> list[ItemEvent]:
        events: list[ItemEvent] = []
        if self._open is not None and self._open.kind != kind:
            events += self._end_item("completed")
        if self._open is None:
            self._open = _OpenItem(kind)
            item = self._item(self._open, "in_progress", ())
            part = output_text("") if kind == "message" else reasoning_text("")
            events += [
                self._of_item("response.output_item.added", {**item, "content": []}),
                self._of_text("response.content_part.added", part=part),
            ]
        self._open.text.write(text)
        # The text of a token may be held back. Its logprobs come at once.
        if kind == "reasoning":
            events.append(self._of_text("response.reasoning_text.delta", delta=text))
        elif text or logprobs:
            events.append(self._of_text("response.output_text.delta", delta=text, logprobs=logprobs))
        return events

    def _end_item(self, status: ItemStatus, logprobs: Sequence[TokenLogprobs] = ()) -> list[ItemEvent]:
        if self._open is None:
            return []
        item: Any = self._item(self._open, status, logprobs)
        [part] = item["content"]
        whole = {"text": part["text"]} | ({"logprobs": logprobs} if self._open.kind == "message" else {})
        events = [
            self._of_text(f"response.{part['type']}.done", **whole),
            self._of_text("response.content_part.done", part=part),
            self._of_item("response.output_item.done", item),
        ]
        self._done.append(item)
        self._open = None
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

    def _item(
        self, written: _OpenItem, status: ItemStatus, logprobs: Sequence[TokenLogprobs]
    ) -> OutputItemBody:
        text = written.text.getvalue()
        if written.kind == "reasoning":
            return reasoning_item(self._id(REASONING), [text], status)
        return output_message(self._id(MESSAGE), [text], status, logprobs)

    def _id(self, prefix: str) -> str:
        return output_item_id(self._response_id, prefix, len(self._done))

    def _of_item(self, name: str, item: Any) -> ItemEvent:
        return {"type": name, "output_index": len(self._done), "item": item}

    def _of_text(self, name: str, **fields: object) -> ItemEvent:
        """Returns an event about the text of the item that is being written."""
        assert self._open is not None
        item_id = self._id(MESSAGE if self._open.kind == "message" else REASONING)
        return {
            "type": name,
            "item_id": item_id,
            "output_index": len(self._done),
            "content_index": 0,
            **fields,
        }
