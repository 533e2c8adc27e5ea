"""The items that a response was made from, as `/input_items` shows them.

A job's messages have the whole conversation, so the items are made from them. A message of the model with
reasoning or calls is several items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from tasks.job import Job
from web.openai.ids import RESPONSE, completion_id
from web.openai.responses.items import (
    CALL,
    CALL_OUTPUT,
    MESSAGE,
    REASONING,
    OutputItemBody,
    call_item,
    input_item_id,
    output_item_id,
    output_message,
    reasoning_item,
)
from web.openai.responses.origin import origin_of_response


class InputTextBody(TypedDict):
    """A text of an input message."""

    type: Annotated[Literal["input_text"], Field(description="always `input_text`")]
    text: Annotated[str, Field(description="the text")]


class InputMessageBody(TypedDict):
    """A message of the input."""

    id: Annotated[
        str, Field(description="its id, which is the same in each response that continues this one")
    ]
    type: Annotated[Literal["message"], Field(description="always `message`")]
    role: Annotated[Literal["user", "system", "developer"], Field(description="who speaks")]
    status: Annotated[Literal["completed"], Field(description="always `completed`")]
    content: Annotated[list[InputTextBody], Field(description="its texts")]


class CallOutputBody(TypedDict):
    """The result of a call."""

    id: Annotated[
        str, Field(description="its id, which is the same in each response that continues this one")
    ]
    type: Annotated[Literal["function_call_output"], Field(description="always `function_call_output`")]
    call_id: Annotated[
        str | None, Field(description="the call; null if the request was cut short, see `request_truncated`")
    ]
    output: Annotated[str | list[InputTextBody], Field(description="the result")]
    status: Annotated[Literal["completed"], Field(description="always `completed`")]


InputItemBody = InputMessageBody | CallOutputBody | OutputItemBody


class InputItemListBody(TypedDict):
    """A page of a response's input."""

    object: Annotated[Literal["list"], Field(description="always `list`")]
    data: Annotated[list[InputItemBody], Field(description="the items")]
    first_id: Annotated[str | None, Field(description="id of the first item; null if there is none")]
    last_id: Annotated[str | None, Field(description="id of the last item; null if there is none")]
    has_more: Annotated[bool, Field(description="whether items come after these")]


NewId = Callable[[str, int], str]
"""Returns an item's id: its prefix, and its number among the items of its turn -> the id."""


def conversation_of(job: Job) -> list[dict[str, Any]]:
    """Returns the messages of a response's job without its instructions."""
    messages: list[dict[str, Any]] = job.request["messages"]
    return messages[1:] if origin_of_response(job)["instructions"] is not None else messages


def own_message_count(job: Job) -> int:
    """Returns how many messages a response had as its own input."""
    turns = origin_of_response(job)["turns"]
    return len(conversation_of(job)) - sum(turn["messages"] + turn["outputs"] for turn in turns)


def input_items(job: Job) -> list[InputItemBody]:
    """Returns all items that a response was made from, also those of earlier turns, the first one first.

    An item has the same id in the response that brought it and in later ones.
    """
    left = iter(conversation_of(job))
    items: list[InputItemBody] = []
    for turn in origin_of_response(job)["turns"]:
        items += _items(islice(left, turn["messages"]), partial(input_item_id, turn["id"]))
        items += _items(islice(left, turn["outputs"]), partial(output_item_id, turn["id"]))
    return [*items, *_items(left, partial(input_item_id, completion_id(RESPONSE, job.id)))]


def _items(messages: Iterable[Mapping[str, Any]], new_id: NewId) -> list[InputItemBody]:
    items: list[InputItemBody] = []
    for message in messages:
        texts, calls = _texts(message["content"]), message.get("tool_calls") or ()
        if message["role"] == "assistant":
            reasoning = message.get("reasoning_content")
            if reasoning is not None:
                items.append(reasoning_item(new_id(REASONING, len(items)), [reasoning], "completed"))
            if any(texts) or not (calls or reasoning):
                items.append(output_message(new_id(MESSAGE, len(items)), texts, "completed"))
            for call in calls:
                items.append(call_item(new_id(CALL, len(items)), call))
        elif message["role"] == "tool":
            items.append(_call_output(new_id(CALL_OUTPUT, len(items)), message))
        else:
            items.append(_message(new_id(MESSAGE, len(items)), message["role"], texts))
    return items


def _message(
    item_id: str, role: Literal["user", "system", "developer"], texts: Sequence[str]
) -> InputMessageBody:
    return {
        "id": item_id,
        "type": "message",
        "role": role,
        "status": "completed",
        "content": _parts(texts),
    }


def _call_output(item_id: str, message: Mapping[str, Any]) -> CallOutputBody:
    content = message["content"]
    return {
        "id": item_id,
        "type": "function_call_output",
        "call_id": message.get("tool_call_id"),
        "output": content if isinstance(content, str) else _parts(_texts(content)),
        "status": "completed",
    }


def _texts(content: str | Sequence[Mapping[str, str]]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content]


def _parts(texts: Sequence[str]) -> list[InputTextBody]:
    return [{"type": "input_text", "text": text} for text in texts]
