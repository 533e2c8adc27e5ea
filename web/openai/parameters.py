"""The bodies of completions and chat completions, validated, and the jobs that they stand for.

A field that the server does not honour is refused by its name. `docs/openai.md` lists all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tasks.request import (
    STRICT,
    JobRequest,
    Message,
    MetadataKey,
    MetadataValue,
    Priority,
    SamplingOptions,
    TokenId,
    parse_request,
)
from tasks.validation import STRING, TOKEN_IDS

MAX_PROMPTS = 256
"""The most prompts of a request. Each is a job of its own."""

COMPLETION_TOKENS = 16
"""OpenAI's default for completions."""

UNLIMITED_TOKENS = 2**31 - 1
"""Chat completions go on to the end of the model's length by default."""

MAX_TOP_LOGPROBS = 5
USER_CHARACTERS = 512


def _without_nulls(fields: Any) -> Any:
    """Returns an object without its null fields: to OpenAI, null asks for the default."""
    if not isinstance(fields, dict):
        return fields
    return {name: value for name, value in fields.items() if value is not None}


def only(*neutral: Any) -> BeforeValidator:
    """Refuses every value but those without an effect, so that nothing is silently ignored."""

    def check(value: Any) -> Any:
        if not any(type(value) is type(one) and value == one for one in neutral):
            accepted = " or ".join(json.dumps(one) for one in neutral)
            raise ValueError(f"is not supported; only {accepted or 'null'} is accepted")
        return value

    return BeforeValidator(check)


NotSupported = Annotated[None, only()]
NOT_SUPPORTED = Field(None, description="not supported: only null is accepted")


class StreamOptions(BaseModel):
    """What a stream has beside its chunks."""

    model_config = STRICT

    include_usage: bool = Field(
        False, description="one more chunk before `[DONE]`, without choices, has the usage"
    )
    include_obfuscation: Annotated[bool, only(False)] = Field(
        False, description="not supported: only `false` is accepted"
    )

    _nulls = model_validator(mode="before")(_without_nulls)


class _Parameters(SamplingOptions):
    """What both kinds of completions take: OpenAI's fields, ours for sampling, and some of a job's."""

    model: str | None = Field(
        None,
        min_length=1,
        description="one of `/v1/models`; by default the server's own",
        examples=["bundled"],
    )
    top_k: Annotated[int, BeforeValidator(lambda value: 0 if value == -1 else value)] = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="sample from this many of the likeliest tokens; 0 and -1 are off",
    )
    stream: bool = Field(False, description="answer with Server-Sent Events")
    stream_options: StreamOptions | None = Field(None, description="only with `stream`")
    user: str | None = Field(
        None, max_length=USER_CHARACTERS, description="kept as `user` in the metadata of the job"
    )
    priority: Annotated[Priority, Field(strict=False)] = Field(
        Priority.NORMAL, description="as in a job: a head start in the line, or the opposite of it"
    )
    expires_in: float | None = Field(
        None, gt=0, le=31_536_000, description="as in a job: seconds that it may wait for its start"
    )
    timeout: float | None = Field(
        None, gt=0, le=31_536_000, description="as in a job: seconds that it may run"
    )
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], only({})] = Field(
        default_factory=dict, description="not supported: only `{}` is accepted"
    )

    _nulls = model_validator(mode="before")(_without_nulls)

    @field_validator("stream_options")
    @classmethod
    def _needs_a_stream(cls, options: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if not info.data.get("stream"):
            raise ValueError("is only accepted with `stream`")
        return options

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def _job(self, task: Mapping[str, Any], **changed: Any) -> JobRequest:
        """Returns the request of a job. task: its prompt or messages. Raises InvalidRequestError."""
        options = {name: getattr(self, name) for name in SamplingOptions.model_fields}
        own = {name: getattr(self, name) for name in ("model", "priority", "expires_in", "timeout")}
        metadata = {"user": self.user} if self.user is not None else {}
        return parse_request({**options, **own, "metadata": metadata, **task, **changed})


def _listed(prompt: Any) -> Any:
    """Returns the list of prompts that a single text, or the ids of a single one, stand for."""
    is_single = isinstance(prompt, str) or (isinstance(prompt, list) and prompt and _is_id(prompt[0]))
    return [prompt] if is_single else prompt


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(prompt: Any) -> str | None:
    if isinstance(prompt, list):
        return TOKEN_IDS
    return STRING if isinstance(prompt, str) else None


PromptText = Annotated[str, Field(min_length=1)]
PromptIds = Annotated[list[TokenId], Field(min_length=1)]
Prompt = Annotated[
    Annotated[PromptText, Tag(STRING)] | Annotated[PromptIds, Tag(TOKEN_IDS)],
    Discriminator(
        _kind,
        custom_error_type="prompt_type",
        custom_error_message="must be a string or a list of token ids",
    ),
]


class CompletionParameters(_Parameters):
    """The body of a completion."""

    prompt: Annotated[
        list[Prompt],
        Field(min_length=1, max_length=MAX_PROMPTS),
        BeforeValidator(
            _listed, json_schema_input_type=PromptText | PromptIds | list[PromptText] | list[PromptIds]
        ),
    ] = Field(
        description="a text or its token ids, or a list of either; each is a job of its own",
        examples=["Once upon a time"],
    )
    max_tokens: int = Field(
        COMPLETION_TOKENS, ge=1, le=2**31 - 1, description="tokens to generate at most, for each choice"
    )
    best_of: int | None = Field(None, ge=1, description="not supported: only the value of `n` is accepted")
    echo: Annotated[bool, only(False)] = Field(False, description="not supported: only `false` is accepted")
    suffix: Annotated[str, only("")] = Field("", description="not supported: only an empty one is accepted")

    @field_validator("best_of")
    @classmethod
    def _is_all(cls, best_of: int | None, info: ValidationInfo) -> int | None:
        if best_of != info.data.get("n"):
            raise ValueError("is not supported; only the value of `n` is accepted")
        return best_of

    def jobs(self) -> list[JobRequest]:
        """Returns a job for each prompt. Raises InvalidRequestError."""
        return [self._job(_as_task(prompt)) for prompt in self.prompt]


class ResponseFormat(BaseModel):
    """The form of the output."""

    model_config = STRICT

    type: Literal["text"] = Field(description="only `text` is supported")


class ChatMessage(Message):
    """One turn of a conversation. Null fields, as in messages that a model gave, count as absent."""

    _nulls = model_validator(mode="before")(_without_nulls)


class ChatParameters(_Parameters):
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
    response_format: ResponseFormat | None = Field(None, description="the form of the output")
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
    parallel_tool_calls: NotSupported = NOT_SUPPORTED
    prediction: NotSupported = NOT_SUPPORTED
    prompt_cache_key: NotSupported = NOT_SUPPORTED
    prompt_cache_options: NotSupported = NOT_SUPPORTED
    prompt_cache_retention: NotSupported = NOT_SUPPORTED
    reasoning_effort: NotSupported = NOT_SUPPORTED
    safety_identifier: NotSupported = NOT_SUPPORTED
    tool_choice: NotSupported = NOT_SUPPORTED
    tools: NotSupported = NOT_SUPPORTED
    verbosity: NotSupported = NOT_SUPPORTED
    web_search_options: NotSupported = NOT_SUPPORTED

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, count: int | None, info: ValidationInfo) -> int | None:
        if not info.data.get("logprobs"):
            raise ValueError("is only accepted with `logprobs`")
        return count

    def job(self) -> JobRequest:
        """Returns the job. Raises InvalidRequestError."""
        request = self._job(
            {"messages": [message.model_dump() for message in self.messages]},
            max_tokens=self.max_completion_tokens or self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )
        return request.model_copy(update={"metadata": {**request.metadata, **self.metadata}})


def _as_task(prompt: str | list[int]) -> dict[str, Any]:
    return {"prompt": prompt} if isinstance(prompt, str) else {"prompt_token_ids": prompt}
