"""The body of a chat completion, validated, and the job that it stands for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tasks.job import Origin
from tasks.messages import Message
from tasks.request import JobRequest, MetadataKey, MetadataValue
from tasks.tools import Tool
from web.openai.output_formats import NamedTool, ResponseFormat, ToolChoice, required_calls
from web.openai.parameters import (
    CHAT_API,
    NOT_SUPPORTED,
    NotSupported,
    Parameters,
    only,
    renamed_fields,
    without_nulls,
)

UNLIMITED_TOKENS = 2**31 - 1
"""Chat completions go on to the end of the model's length by default."""

MAX_TOP_LOGPROBS = 5


def _complete_turn(message: Any) -> Any:
    """Returns a message without null fields. An assistant that only called tools gets an empty content."""
    given = without_nulls(message)
    if isinstance(given, dict) and "content" not in given and given.get("tool_calls"):
        return {**given, "content": ""}
    return given


class ChatMessage(Message):
    """One turn of a conversation. Null fields, as in messages that a model gave, count as absent."""

    _turn = model_validator(mode="before")(_complete_turn)


class ChatParameters(Parameters):
    """The body of a chat completion."""

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
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] = Field(
        default_factory=dict, description="comes back with the completion, and with the job"
    )
    tools: list[Tool] | None = Field(
        None, max_length=128, description="functions that the model may call, if its chat template shows them"
    )
    tool_choice: ToolChoice = Field(
        "auto",
        description="`none` does not show the tools to the model; with `required` or a tool, the output "
        "consists of calls that match the schemas",
    )
    parallel_tool_calls: bool = Field(True, description="false: all calls but the first one are dropped")
    response_format: ResponseFormat | None = Field(
        None, description="`json_object`, or `json_schema` with a schema that the output matches"
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

    @property
    def origin(self) -> Origin:
        """What is kept of these parameters with the job, beside its request."""
        parallel = {} if self.parallel_tool_calls else {"parallel_tool_calls": False}
        return {"api": CHAT_API, **parallel}

    @field_validator("tool_choice")
    @classmethod
    def _is_among_the_tools(cls, choice: Any, info: ValidationInfo) -> Any:
        names = [tool.function.name for tool in info.data.get("tools") or ()]
        if isinstance(choice, NamedTool) and choice.function.name not in names:
            raise ValueError(f"there is no tool '{choice.function.name}' in tools")
        if choice == "required" and not names:
            raise ValueError("needs tools")
        return choice

    @field_validator("response_format")
    @classmethod
    def _does_not_contradict(cls, given: Any, info: ValidationInfo) -> Any:
        if given is not None and given.structure is not None and _must_call(info.data.get("tool_choice")):
            raise ValueError("contradicts tool_choice")
        return given

    def job(self) -> JobRequest:
        """Returns the job. Raises InvalidRequestError."""
        task = {
            "messages": [message.model_dump() for message in self.messages],
            "tools": [tool.model_dump() for tool in self._shown_tools] or None,
        }
        field, structure = self._structure()
        with renamed_fields({"structured_outputs.json": field}):
            request = self.job_request(
                task,
                structured_outputs=structure,
                max_tokens=self.max_completion_tokens or self.max_tokens,
                logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            )
        return request.model_copy(update={"metadata": {**request.metadata, **self.metadata}})

    @property
    def _shown_tools(self) -> list[Tool]:
        return [] if self.tool_choice == "none" else self.tools or []

    def _structure(self) -> tuple[str, Any]:
        """Returns the job's `structured_outputs`, and the field that it comes from."""
        if _must_call(self.tool_choice):
            named = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
            tools = [tool for tool in self._shown_tools if named in (None, tool.function.name)]
            is_parallel = self.parallel_tool_calls and named is None
            return "tools", required_calls(tools, is_parallel=is_parallel)
        if self.response_format is not None and self.response_format.structure is not None:
            return "response_format.json_schema.schema", self.response_format.structure
        return "structured_outputs.json", self.structured_outputs


def _must_call(choice: Any) -> bool:
    return choice == "required" or isinstance(choice, NamedTool)
