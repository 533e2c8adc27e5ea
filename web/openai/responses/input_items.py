"""The input of a response: as clients send it, and as `/input_items` shows it.

A job's messages have the whole input, so its items are made from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator
from typing_extensions import TypedDict

from tasks.job import Job
from tasks.messages import Text
from tasks.request import STRICT
from tasks.validation import PARTS, STRING
from web.openai.ids import RESPONSE, completion_id
from web.openai.parameters import NOT_SUPPORTED, NotSupported, only, without_nulls
from web.openai.responses.bodies import OutputMessageBody, output_message
from web.openai.responses.origin import origin_of_response


class InputPart(BaseModel):
    """A text in a message. A part of an earlier output may be sent back as it came."""

    model_config = STRICT

    type: Literal["input_text", "output_text"] = Field(
        description="`input_text`, or `output_text` of a model"
    )
    text: Text = Field(description="the text")
    annotations: Annotated[list[Any], only([])] = Field(
        default_factory=list, description="of an output; only `[]` is accepted"
    )
    logprobs: list[Any] = Field(default_factory=list, description="of an output; not read")
    prompt_cache_breakpoint: NotSupported = NOT_SUPPORTED

    _nulls = model_validator(mode="before")(without_nulls)


def _form(value: Any) -> str | None:
    if isinstance(value, list):
        return PARTS
    return STRING if isinstance(value, str) else None


class InputMessage(BaseModel):
    """One turn of a conversation."""

    model_config = STRICT

    type: Literal["message"] = Field("message", description="only messages are supported")
    role: Literal["user", "assistant", "system", "developer"] = Field(description="who speaks")
    content: Annotated[
        Annotated[Text, Tag(STRING)] | Annotated[list[InputPart], Tag(PARTS), Field(min_length=1)],
        Discriminator(
            _form,
            custom_error_type="content_type",
            custom_error_message="must be a string or a list of text parts",
        ),
    ] = Field(description="a string, or a list of text parts", examples=["Tell me a tale."])
    id: str | None = Field(None, description="not read: each item gets an id of its own")
    status: Literal["in_progress", "completed", "incomplete"] | None = Field(None, description="not read")
    phase: NotSupported = NOT_SUPPORTED

    _nulls = model_validator(mode="before")(without_nulls)

    def as_message(self) -> dict[str, Any]:
        """Returns the message of a job."""
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        parts = [{"type": "text", "text": part.text} for part in self.content]
        return {"role": self.role, "content": parts}


Input = Annotated[
    Annotated[str, Tag(STRING), Field(min_length=1)]
    | Annotated[list[InputMessage], Tag(PARTS), Field(min_length=1)],
    Discriminator(
        _form,
        custom_error_type="input_type",
        custom_error_message="must be a string or a list of messages",
    ),
]


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


InputItemBody = InputMessageBody | OutputMessageBody


class InputItemListBody(TypedDict):
    """A page of a response's input."""

    object: Annotated[Literal["list"], Field(description="always `list`")]
    data: Annotated[list[InputItemBody], Field(description="the items")]
    first_id: Annotated[str | None, Field(description="id of the first item; null if there is none")]
    last_id: Annotated[str | None, Field(description="id of the last item; null if there is none")]
    has_more: Annotated[bool, Field(description="whether items come after these")]


def messages_of(given: str | Sequence[InputMessage]) -> list[dict[str, Any]]:
    """Returns the messages of a job that an input stands for."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [item.as_message() for item in given]


def conversation_of(job: Job) -> list[dict[str, Any]]:
    """Returns the messages of a response's job without its instructions."""
    messages: list[dict[str, Any]] = job.request["messages"]
    return messages[1:] if origin_of_response(job)["instructions"] is not None else messages


def own_message_count(job: Job) -> int:
    """Returns how many messages a response had as its own input."""
    turns = origin_of_response(job)["turns"]
    return len(conversation_of(job)) - sum(turn["messages"] + 1 for turn in turns)


def input_items(job: Job) -> list[InputItemBody]:
    """Returns all items that a response was made from, also those of earlier turns, the first one first."""
    messages = conversation_of(job)
    return [_item(item_id, message) for item_id, message in zip(_ids(job), messages, strict=False)]


def _ids(job: Job) -> Iterator[str]:
    """Yields ids without end. An item has the same id in the response that brought it and in later ones."""
    for turn in origin_of_response(job)["turns"]:
        yield from (_input_id(turn["id"], place) for place in range(turn["messages"]))
        yield _output_id(turn["id"])
    own = completion_id(RESPONSE, job.id)
    place = 0
    while True:
        yield _input_id(own, place)
        place += 1


def _input_id(response_id: str, place: int) -> str:
    return f"{_output_id(response_id)}_{place}"


def _output_id(response_id: str) -> str:
    return "msg_" + response_id.removeprefix(RESPONSE)


def _item(item_id: str, message: Mapping[str, Any]) -> InputItemBody:
    content = message["content"]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    if message["role"] == "assistant":
        return output_message(item_id, texts, "completed")
    return {
        "id": item_id,
        "type": "message",
        "role": message["role"],
        "status": "completed",
        "content": [{"type": "input_text", "text": text} for text in texts],
    }
