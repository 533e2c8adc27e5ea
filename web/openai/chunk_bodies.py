"""Chunks of completions, as clients read them."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from web.openai.bodies import ChatLogprobsBody, ChatReason, Created, Reason, TextLogprobsBody, TokenUsageBody
from web.openai.errors import ErrorBody
from web.openai.tool_output import ToolCallBody


class ToolCallDeltaBody(ToolCallBody):
    """A whole call of a tool."""

    index: Annotated[int, Field(ge=0, description="the number of the call in its choice, from 0 on")]


class DeltaBody(TypedDict):
    """What a chunk adds to a message."""

    role: NotRequired[
        Annotated[Literal["assistant"], Field(description="only in the first chunk of a choice")]
    ]
    reasoning_content: NotRequired[Annotated[str, Field(description="reasoning, before any text")]]
    content: NotRequired[Annotated[str, Field(description="text")]]
    tool_calls: NotRequired[Annotated[list[ToolCallDeltaBody], Field(description="one whole call of a tool")]]


class ChatChunkChoiceBody(TypedDict):
    """What a chunk adds to a choice."""

    index: Annotated[int, Field(ge=0, description="0 to n - 1")]
    delta: Annotated[DeltaBody, Field(description="what it adds to the message")]
    logprobs: Annotated[ChatLogprobsBody | None, Field(description="of these tokens; null unless asked for")]
    finish_reason: Annotated[ChatReason | None, Field(description="null until the choice ends")]


class ChatChunkBody(TypedDict):
    """A part of a chat completion."""

    id: Annotated[str, Field(description="that of its job, with `chatcmpl-` for `job_`")]
    object: Annotated[Literal["chat.completion.chunk"], Field(description="always `chat.completion.chunk`")]
    created: Created
    model: Annotated[str, Field(description="the model that it runs on")]
    choices: Annotated[list[ChatChunkChoiceBody], Field(description="one; none beside the usage")]
    usage: NotRequired[
        Annotated[
            TokenUsageBody | None,
            Field(description="present with `include_usage`; null in all chunks but the last one"),
        ]
    ]


class TextChunkChoiceBody(TypedDict):
    """What a chunk adds to a choice."""

    index: Annotated[int, Field(ge=0, description="n choices for each prompt, in the prompts' order")]
    text: Annotated[str, Field(description="text")]
    logprobs: Annotated[TextLogprobsBody | None, Field(description="of these tokens; null unless asked for")]
    finish_reason: Annotated[Reason | None, Field(description="null until the choice ends")]


class TextChunkBody(TypedDict):
    """A part of a completion."""

    id: Annotated[str, Field(description="that of its first job, with `cmpl-` for `job_`")]
    object: Annotated[Literal["text_completion"], Field(description="always `text_completion`")]
    created: Created
    model: Annotated[str, Field(description="the model that it runs on")]
    choices: Annotated[list[TextChunkChoiceBody], Field(description="one; none beside the usage")]
    usage: NotRequired[
        Annotated[
            TokenUsageBody | None,
            Field(description="present with `include_usage`; null in all chunks but the last one"),
        ]
    ]


ChatChunk = ChatChunkBody | ErrorBody
TextChunk = TextChunkBody | ErrorBody
"""What a stream's `data` may be, before `[DONE]`."""
