"""The turns of a conversation, as requests have them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from tasks.tools import ToolCall
from tasks.validation import PARTS, STRING

Text = Annotated[str, Field(min_length=0)]
"""Any text without lone surrogates. Pydantic looks for these only if it has a length to check."""


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["text"] = Field(description="always `text`")
    text: Text = Field(description="the text")


def _content_kind(content: Any) -> str | None:
    if isinstance(content, list):
        return PARTS
    return STRING if isinstance(content, str) else None


Content = Annotated[
    Annotated[Text, Tag(STRING)] | Annotated[list[TextPart], Tag(PARTS), Field(min_length=1)],
    Discriminator(
        _content_kind,
        custom_error_type="content_type",
        custom_error_message="must be a string or a list of text parts",
    ),
]


class Message(BaseModel):
    """One turn of a conversation. Several text parts are joined without anything between them."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description="who speaks", examples=["user"]
    )
    content: Content = Field(description="a string, or a list of text parts", examples=["Tell me a tale."])
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="who speaks, among several of one role, for the chat template", examples=["ada"]
    )
    reasoning_content: Text | None = Field(
        None, description="with the role `assistant`: the reasoning before this turn, for the chat template"
    )
    tool_calls: list[ToolCall] | None = Field(
        None, min_length=1, description="with the role `assistant`: the calls of tools in this turn"
    )
    tool_call_id: str | None = Field(
        None, min_length=1, description="with the role `tool`: the call that this is the result of"
    )

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
