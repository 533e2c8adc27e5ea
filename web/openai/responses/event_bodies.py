"""The events of a response's stream, as clients read them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from tasks.answers import TokenLogprobs
from web.openai.responses.bodies import ResponseBody
from web.openai.responses.items import OutputItemBody, OutputTextBody, ReasoningTextBody

Number = Annotated[int, Field(ge=0, description="number of the event, from 0 on, without gaps")]
Zero = Annotated[int, Field(ge=0, le=0, description="always 0")]
ItemId = Annotated[str, Field(description="id of the item")]
Index = Annotated[int, Field(ge=0, description="number of the item in the output, from 0 on")]


class LifecycleEvent(TypedDict):
    """The response has another status.

    The last event of a stream is `response.completed`, `response.failed` or `response.incomplete`. The latter
    also ends the stream of a response that was cancelled, because OpenAI has no event for that.
    """

    type: Annotated[
        Literal[
            "response.created",
            "response.queued",
            "response.in_progress",
            "response.completed",
            "response.incomplete",
            "response.failed",
        ],
        Field(description="what has happened"),
    ]
    sequence_number: Number
    response: Annotated[
        ResponseBody, Field(description="the response at that moment; its output once it has ended")
    ]


class OutputItemEvent(TypedDict):
    """An item of the output has begun, or is done: reasoning, a message, or a call of a function."""

    type: Annotated[
        Literal["response.output_item.added", "response.output_item.done"],
        Field(description="what has happened"),
    ]
    sequence_number: Number
    output_index: Index
    item: Annotated[OutputItemBody, Field(description="the item")]


class ContentPartEvent(TypedDict):
    """The text of a message or of reasoning has begun, or is done."""

    type: Annotated[
        Literal["response.content_part.added", "response.content_part.done"],
        Field(description="what has happened"),
    ]
    sequence_number: Number
    item_id: ItemId
    output_index: Index
    content_index: Zero
    part: Annotated[OutputTextBody | ReasoningTextBody, Field(description="the text")]


class TextDeltaEvent(TypedDict):
    """Text was added."""

    type: Annotated[Literal["response.output_text.delta"], Field(description="what has happened")]
    sequence_number: Number
    item_id: ItemId
    output_index: Index
    content_index: Zero
    delta: Annotated[str, Field(description="the text of one token or of several")]
    logprobs: Annotated[list[TokenLogprobs], Field(description="of these tokens; empty unless asked for")]


class TextDoneEvent(TypedDict):
    """The text is whole."""

    type: Annotated[Literal["response.output_text.done"], Field(description="what has happened")]
    sequence_number: Number
    item_id: ItemId
    output_index: Index
    content_index: Zero
    text: Annotated[str, Field(description="all of it")]
    logprobs: Annotated[list[TokenLogprobs], Field(description="of all tokens; empty unless asked for")]


class ReasoningDeltaEvent(TypedDict):
    """Text was added to the reasoning."""

    type: Annotated[Literal["response.reasoning_text.delta"], Field(description="what has happened")]
    sequence_number: Number
    item_id: ItemId
    output_index: Index
    content_index: Zero
    delta: Annotated[str, Field(description="the text of one token or of several")]


class ReasoningDoneEvent(TypedDict):
    """The text of the reasoning is whole."""

    type: Annotated[Literal["response.reasoning_text.done"], Field(description="what has happened")]
    sequence_number: Number
    item_id: ItemId
    output_index: Index
    content_index: Zero
    text: Annotated[str, Field(description="all of it")]


class ArgumentsDeltaEvent(TypedDict):
    """Arguments of a call were added. A call has one such event, because it is given once it is complete."""

    type: Annotated[Literal["response.function_call_arguments.delta"], Field(description="what has happened")]
    sequence_number: Number
    item_id: ItemId
    output_index: Index
    delta: Annotated[str, Field(description="all arguments, as JSON")]


class ArgumentsDoneEvent(TypedDict):
    """The arguments of a call are whole."""

    type: Annotated[Literal["response.function_call_arguments.done"], Field(description="what has happened")]
    sequence_number: Number
    item_id: ItemId
    output_index: Index
    arguments: Annotated[str, Field(description="all of them, as JSON")]


ResponseEvent = (
    LifecycleEvent
    | OutputItemEvent
    | ContentPartEvent
    | TextDeltaEvent
    | TextDoneEvent
    | ReasoningDeltaEvent
    | ReasoningDoneEvent
    | ArgumentsDeltaEvent
    | ArgumentsDoneEvent
)
