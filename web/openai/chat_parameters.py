"""The body of a chat completion, validated, and the job that it stands for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tasks.job import Origin
from tasks.messages import Message
from tasks.request import JobRequest
from web.openai.output_formats import ResponseFormat
from web.openai.parameters import (
    CHAT_API,
    NOT_SUPPORTED,
    CompletionMetadata,
    NotSupported,
    only,
    without_nulls,
)
from web.openai.tool_parameters import ToolParameters, check_format

UNLIMITED_TOKENS = 2**31 - 1
"""Chat completions go on to the end of the model's length by default."""

MAX_TOP_LOGPROBS = 5


def _complete_turn(message: Any) -> Any:
    """Returns a message without null fields, and without what OpenAI's SDK adds to those of the assistant."""
    given = without_nulls(message)
    if not isinstance(given, dict):
        return given
    if isinstance(given.get("content"), list):
        given["content"] = [without_nulls(part) for part in given["content"]]
    return _assistant_turn(given, message) if given.get("role") == "assistant" else given


def _assistant_turn(given: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Returns a message that a model gave, as it gave it. Its content is empty if it was null.

    The SDK's helpers for parsing and for streams add `parsed`, `parsed_arguments` and `index`.
    """
    turn = {name: value for name, value in given.items() if name != "parsed"}
    if turn.get("annotations") == []:
        del turn["annotations"]
    if "content" in message or turn.get("tool_calls") or turn.get("reasoning_content"):
        turn.setdefault("content", "")
    if isinstance(turn.get("tool_calls"), list):
        turn["tool_calls"] = [_call(call) for call in turn["tool_calls"]]
    return turn


def _call(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    given = {name: value for name, value in call.items() if name != "index"}
    function = given.get("function")
    if isinstance(function, dict):
        given["function"] = {name: value for name, value in function.items() if name != "parsed_arguments"}
    return given


class ChatMessage(Message):
    """One turn of a conversation. Null fields, as in messages that a model gave, count as absent."""

    _turn = model_validator(mode="before")(_complete_turn)


class ChatParameters(ToolParameters, CompletionMetadata):
    """The body of a chat completion."""

    schema_field = "response_format.json_schema.schema"

    messages: list[ChatMessage] = Field(
        min_length=1, description="a conversation, rendered by the model's chat template"
    )
    max_tokens: int = Field(
        UNLIMITED_TOKENS,
        ge=1,
        le=2**31 - 1,
        description="tokens to generate at most, for each choice; by default up to the model's length",
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, le=2**31 - 1, description="another name of `max_tokens`; it wins if both are given"
    )
    # OpenAI's chat completions ask for log probabilities in another way than jobs and completions.
    logprobs: bool = Field(False, description="log probabilities of the tokens")
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="with `logprobs`: those of this many of the likeliest tokens beside each",
    )
    response_format: ResponseFormat | None = Field(
        None, description="`json_object`, or `json_schema` with a schema that the output matches"
    )
    include_reasoning: bool = Field(
        True, description="false leaves the reasoning of models that think out of the answer"
    )
    modalities: Annotated[list[str], only(["text"])] = Field(
        ["text"], description='not supported: only `["text"]` is accepted'
    )
    store: Annotated[bool, only(True)] = Field(
        True, description="only `true` is accepted: each completion is kept as long as its job"
    )
    service_tier: Annotated[str, only("auto", "default")] = Field(
        "auto", description="not supported: only `auto` and `default` are accepted; see `priority`"
    )
    audio: NotSupported = NOT_SUPPORTED
    function_call: NotSupported = NOT_SUPPORTED
    functions: NotSupported = NOT_SUPPORTED
    moderation: NotSupported = NOT_SUPPORTED
    prediction: NotSupported = NOT_SUPPORTED
    prompt_cache_key: NotSupported = NOT_SUPPORTED
    prompt_cache_options: NotSupported = NOT_SUPPORTED
    prompt_cache_retention: NotSupported = NOT_SUPPORTED
    reasoning_effort: NotSupported = NOT_SUPPORTED
    safety_identifier: NotSupported = NOT_SUPPORTED
    verbosity: NotSupported = NOT_SUPPORTED
    web_search_options: NotSupported = NOT_SUPPORTED

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, count: int | None, info: ValidationInfo) -> int | None:
        if not info.data.get("logprobs"):
            raise ValueError("is only accepted with `logprobs`")
        return count

    @field_validator("response_format")
    @classmethod
    def _does_not_contradict(cls, given: Any, info: ValidationInfo) -> Any:
        check_format(given, info.data)
        return given

    @property
    def output_format(self) -> ResponseFormat | None:
        return self.response_format

    @property
    def origin(self) -> Origin:
        """What is kept of these parameters with the job, beside its request."""
        fields = {
            "parallel_tool_calls": self.parallel_tool_calls,
            "include_reasoning": self.include_reasoning,
        }
        return {"api": CHAT_API, **{name: value for name, value in fields.items() if not value}}

    def job(self) -> JobRequest:
        """Returns the job. Raises InvalidRequestError."""
        return self.conversation_request(
            [message.model_dump() for message in self.messages],
            max_tokens=self.max_completion_tokens or self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )
