"""The input of a response as clients send it, and the messages of a job that it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from tasks.errors import FieldError, InvalidRequestError
from tasks.messages import Text
from tasks.request import STRICT
from tasks.tools import CallId, FunctionCall
from tasks.validation import CALL_ITEM, CALL_OUTPUT_ITEM, MESSAGE_ITEM, PARTS, REASONING_ITEM, STRING
from web.openai.parameters import NOT_SUPPORTED, NotSupported, known_types, only, without_nulls

Message = Mapping[str, Any]
"""A message of a job, as JSON."""

NOT_READ = Field(None, description="not read: each item gets its own")


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
    parsed: Any = Field(None, description="of the SDK's own; not read")
    prompt_cache_breakpoint: NotSupported = NOT_SUPPORTED

    _nulls = model_validator(mode="before")(without_nulls)


def _form(value: Any) -> str | None:
    if isinstance(value, list):
        return PARTS
    return STRING if isinstance(value, str) else None


Content = Annotated[
    Annotated[Text, Tag(STRING)] | Annotated[list[InputPart], Tag(PARTS), Field(min_length=1)],
    Discriminator(
        _form,
        custom_error_type="content_type",
        custom_error_message="must be a string or a list of text parts",
    ),
]


class InputItem(BaseModel):
    """What all items have. An item of an earlier output may be sent back as it came."""

    model_config = STRICT

    id: str | None = NOT_READ
    status: Literal["in_progress", "completed", "incomplete"] | None = NOT_READ

    _nulls = model_validator(mode="before")(without_nulls)


class InputMessage(InputItem):
    """One turn of a conversation."""

    type: Literal["message"] = Field("message", description="always `message`")
    role: Literal["user", "assistant", "system", "developer"] = Field(description="who speaks")
    content: Content = Field(description="a string, or a list of text parts", examples=["Tell me a tale."])
    phase: NotSupported = NOT_SUPPORTED

    def as_message(self) -> dict[str, Any]:
        """Returns the message of a job."""
        return {"role": self.role, "content": _content(self.content)}


class ReasoningPart(BaseModel):
    """The text of reasoning."""

    model_config = STRICT

    type: Literal["reasoning_text"] = Field(description="always `reasoning_text`")
    text: Text = Field(description="the text")


class ReasoningItem(InputItem):
    """The reasoning of the model before the message or the calls that follow it."""

    type: Literal["reasoning"] = Field(description="always `reasoning`")
    content: list[ReasoningPart] = Field(min_length=1, description="its texts")
    summary: Annotated[list[Any], only([])] = Field(
        default_factory=list, description="not supported: only `[]` is accepted"
    )
    encrypted_content: NotSupported = NOT_SUPPORTED

    def as_message(self) -> dict[str, Any]:
        """Returns a message of a job with this reasoning alone."""
        return reasoning_message("".join(part.text for part in self.content))


class CallItem(InputItem, FunctionCall):
    """A call of a function, which the model made earlier."""

    type: Literal["function_call"] = Field(description="always `function_call`")
    call_id: CallId = Field(description="names the call for the item with its output")
    caller: NotSupported = NOT_SUPPORTED
    namespace: NotSupported = NOT_SUPPORTED
    parsed_arguments: Any = Field(None, description="of the SDK's own; not read")

    def as_message(self) -> dict[str, Any]:
        """Returns a message of a job with this call alone."""
        return call_message(self.call_id, self.name, self.arguments)


class CallOutputItem(InputItem):
    """The result of a call."""

    type: Literal["function_call_output"] = Field(description="always `function_call_output`")
    call_id: CallId = Field(description="the `call_id` of a call before it")
    output: Content = Field(description="a string, or a list of text parts", examples=["rain"])
    caller: NotSupported = NOT_SUPPORTED
    name: NotSupported = NOT_SUPPORTED
    namespace: NotSupported = NOT_SUPPORTED

    def as_message(self) -> dict[str, Any]:
        """Returns the message of a job."""
        return {"role": "tool", "tool_call_id": self.call_id, "content": _content(self.output)}


TAGS = {
    "message": MESSAGE_ITEM,
    "function_call": CALL_ITEM,
    "function_call_output": CALL_OUTPUT_ITEM,
    "reasoning": REASONING_ITEM,
}


def _tag(item: Any) -> str:
    """Returns the tag of an item. One without a type, or that is no object, is validated as a message."""
    given = item.get("type") if isinstance(item, dict) else None
    return TAGS.get(given, MESSAGE_ITEM) if isinstance(given, str) else MESSAGE_ITEM


AnyItem = Annotated[
    Annotated[InputMessage, Tag(MESSAGE_ITEM)]
    | Annotated[CallItem, Tag(CALL_ITEM)]
    | Annotated[CallOutputItem, Tag(CALL_OUTPUT_ITEM)]
    | Annotated[ReasoningItem, Tag(REASONING_ITEM)],
    Discriminator(_tag),
    known_types(*TAGS),
]

Input = Annotated[
    Annotated[str, Tag(STRING), Field(min_length=1)]
    | Annotated[list[AnyItem], Tag(PARTS), Field(min_length=1)],
    Discriminator(
        _form,
        custom_error_type="input_type",
        custom_error_message="must be a string or a list of items",
    ),
]


def messages_of(given: str | Sequence[AnyItem]) -> list[dict[str, Any]]:
    """Returns the messages of a job that an input stands for."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return joined(item.as_message() for item in given)


def call_message(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def reasoning_message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "reasoning_content": text}


def joined(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns messages as templates expect them, in which one message of the model has what belongs together.

    Calls belong to the message before them, and reasoning to the message after it.
    """
    found: list[dict[str, Any]] = []
    for message in messages:
        before = found[-1] if found and found[-1]["role"] == message["role"] == "assistant" else None
        if before is not None and "tool_calls" in message:
            calls = [*before.get("tool_calls", ()), *message["tool_calls"]]
            found[-1] = {**before, "tool_calls": calls}
        elif before is not None and before == reasoning_message(before.get("reasoning_content", "")):
            text = before["reasoning_content"] + message.get("reasoning_content", "")
            found[-1] = {**message, "reasoning_content": text}
        else:
            found.append(message)
    return found


def check_outputs(given: str | Sequence[AnyItem], earlier: Iterable[Message]) -> None:
    """Raises InvalidRequestError if an output has no call before it. earlier: the conversation so far."""
    known = {call["id"] for message in earlier for call in message.get("tool_calls") or ()}
    for place, item in enumerate(() if isinstance(given, str) else given):
        if isinstance(item, CallItem):
            known.add(item.call_id)
        elif isinstance(item, CallOutputItem) and item.call_id not in known:
            message = f"there is no function_call with the call_id '{item.call_id}' before it"
            raise InvalidRequestError([FieldError(f"input.{place}.call_id", message)])


def _content(given: str | Sequence[InputPart]) -> str | list[dict[str, str]]:
    return given if isinstance(given, str) else [{"type": "text", "text": part.text} for part in given]
