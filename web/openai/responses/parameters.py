"""The body of a response, validated, and the job that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from tasks.messages import Text
from tasks.request import STRICT, JobRequest, MetadataKey, MetadataValue
from web.openai.chat_parameters import MAX_TOP_LOGPROBS, UNLIMITED_TOKENS
from web.openai.output_formats import NamedTool, ResponseFormat
from web.openai.parameters import (
    NOT_SUPPORTED,
    USER_CHARACTERS,
    NotSupported,
    only,
    without_nulls,
)
from web.openai.responses.flat_fields import ResponseTool, ResponseToolChoice, TextFormat
from web.openai.responses.input_items import Input, check_outputs, messages_of
from web.openai.responses.origin import API, ResponseOrigin, Turn, format_origin
from web.openai.tool_parameters import ToolParameters, check_format

LOGPROBS = "message.output_text.logprobs"

UNSTORED_SECONDS = 60.0
"""How long a response with `store=false` is kept after its end, so that its client can read the answer and
resume a stream that broke."""


class ResponseStreamOptions(BaseModel):
    """What a stream has beside its events."""

    model_config = STRICT

    include_obfuscation: Annotated[bool, only(False)] = Field(
        False, description="not supported: only `false` is accepted"
    )

    _nulls = model_validator(mode="before")(without_nulls)


class TextConfig(BaseModel):
    """The form of the output."""

    model_config = STRICT

    format: TextFormat | None = Field(
        None, description="`json_object`, or `json_schema` with a schema that the output matches"
    )
    verbosity: NotSupported = NOT_SUPPORTED

    _nulls = model_validator(mode="before")(without_nulls)


class ReasoningConfig(BaseModel):
    """How the model thinks, which cannot be chosen."""

    model_config = STRICT

    context: NotSupported = NOT_SUPPORTED
    effort: NotSupported = NOT_SUPPORTED
    generate_summary: NotSupported = NOT_SUPPORTED
    mode: NotSupported = NOT_SUPPORTED
    summary: NotSupported = NOT_SUPPORTED

    _nulls = model_validator(mode="before")(without_nulls)


class ResponseParameters(ToolParameters):
    """The body of a response."""

    schema_field = "text.format.schema"

    tools: list[ResponseTool] | None = Field(
        None, max_length=128, description="functions that the model may call, if its chat template shows them"
    )
    tool_choice: ResponseToolChoice = Field(
        "auto",
        description="`none` does not show the tools to the model; with `required` or a function, the output "
        "consists of calls that match the schemas",
    )
    input: Input = Field(
        description="a text, or items: messages, reasoning, calls and their outputs",
        examples=["Tell me a tale."],
    )
    instructions: Text | None = Field(
        None, description="a system message before the whole input; the next response does not inherit it"
    )
    previous_response_id: str | None = Field(
        None, min_length=1, description="a response of yours, whose input and output go before this input"
    )
    background: bool = Field(False, description="answer at once, and go on without the client")
    store: bool = Field(
        True, description="`false`: it is deleted a minute after its end, and no response can continue it"
    )
    max_output_tokens: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="tokens to generate at most; by default up to the model's length",
    )
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] = Field(
        default_factory=dict, description="comes back with the response, and with the job"
    )
    include: list[Literal["message.output_text.logprobs"]] = Field(
        default_factory=list, description="log probabilities of the tokens; not with tools"
    )
    top_logprobs: int = Field(
        0,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description=f"with `{LOGPROBS}` in `include`: those of this many of the likeliest tokens beside each",
    )
    stream_options: ResponseStreamOptions | None = Field(None, description="only with `stream`")  # type: ignore[assignment]
    text: TextConfig | None = Field(None, description="the form of the output")
    user: str | None = Field(None, max_length=USER_CHARACTERS, description="comes back with the response")
    reasoning: ReasoningConfig | None = Field(None, description="not supported: only `{}` is accepted")
    truncation: Annotated[str, only("disabled")] = Field(
        "disabled", description="not supported: only `disabled` is accepted"
    )
    service_tier: Annotated[str, only("auto", "default")] = Field(
        "auto", description="not supported: only `auto` and `default` are accepted; see `priority`"
    )
    # Completions have these. A response has one choice, and other names for the rest.
    n: Annotated[int, only(1)] = Field(1, description="not supported: only 1 is accepted", ge=1, le=1)
    max_tokens: NotSupported = Field(None, description="not supported: see `max_output_tokens`")  # type: ignore[assignment]
    logprobs: NotSupported = Field(None, description="not supported: see `include`")
    access_programs: NotSupported = NOT_SUPPORTED
    background_options: NotSupported = NOT_SUPPORTED
    context_management: NotSupported = NOT_SUPPORTED
    conversation: NotSupported = NOT_SUPPORTED
    image: NotSupported = NOT_SUPPORTED
    max_tool_calls: NotSupported = NOT_SUPPORTED
    moderation: NotSupported = NOT_SUPPORTED
    prompt: NotSupported = NOT_SUPPORTED
    prompt_cache_key: NotSupported = NOT_SUPPORTED
    prompt_cache_options: NotSupported = NOT_SUPPORTED
    prompt_cache_retention: NotSupported = NOT_SUPPORTED
    safety_identifier: NotSupported = NOT_SUPPORTED

    @field_validator("store")
    @classmethod
    def _is_stored_in_background(cls, store: bool, info: ValidationInfo) -> bool:
        if info.data.get("background") and not store:
            raise ValueError("must be true with `background`, because the response is read later")
        return store

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, count: int, info: ValidationInfo) -> int:
        if count and not info.data.get("include"):
            raise ValueError(f"is only accepted with `{LOGPROBS}` in `include`")
        return count

    @field_validator("include")
    @classmethod
    def _needs_plain_text(cls, include: list[str], info: ValidationInfo) -> list[str]:
        if include and info.data.get("tools") and info.data.get("tool_choice") != "none":
            raise ValueError("is not accepted with `tools`: a token may be a part of a call, or of its mark")
        return include

    @field_validator("text")
    @classmethod
    def _does_not_contradict(cls, text: TextConfig, info: ValidationInfo) -> TextConfig:
        check_format(text.format, info.data)
        return text

    @property
    def keep_seconds(self) -> float | None:
        return None if self.store else UNSTORED_SECONDS

    @property
    def own_messages(self) -> list[dict[str, Any]]:
        return messages_of(self.input)

    @property
    def output_format(self) -> ResponseFormat | None:
        return None if self.text is None else self.text.format

    def origin(self, turns: Sequence[Turn]) -> ResponseOrigin:
        """Returns the origin of the job. turns: the earlier responses of the conversation."""
        origin: ResponseOrigin = {
            "api": API,
            "background": self.background,
            "store": self.store,
            "instructions": self.instructions,
            "turns": list(turns),
            "user": self.user,
        }
        if not self.parallel_tool_calls:
            origin["parallel_tool_calls"] = False
        if isinstance(self.tool_choice, NamedTool):
            origin["tool_choice"] = {"type": "function", "name": self.tool_choice.function.name}
        elif self.tool_choice != "auto":
            origin["tool_choice"] = self.tool_choice
        if len(self.tools or ()) > len(self.shown_tools):
            origin["hidden_tools"] = [tool.model_dump(exclude_none=True) for tool in self.tools or ()]
        if self.output_format is not None and self.output_format.structure is not None:
            origin["format"] = format_origin(self.output_format)
        return origin

    def job(self, earlier: Sequence[dict[str, Any]]) -> JobRequest:
        """Returns the job. earlier: the messages of the conversation so far. Raises InvalidRequestError."""
        before = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        check_outputs(self.input, earlier)
        request = self.conversation_request(
            [*before, *earlier, *self.own_messages],
            max_tokens=self.max_output_tokens or UNLIMITED_TOKENS,
            logprobs=self.top_logprobs if self.include else None,
        )
        return request.model_copy(update={"metadata": self.metadata})
