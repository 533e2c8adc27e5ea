"""The bodies of completions and chat completions, validated, and the jobs that they stand for.

A field that the server does not honour is refused by its name. `docs/openai.md` lists all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from tasks.errors import FieldError, InvalidRequestError
from tasks.request import (
    MAX_METADATA,
    STRICT,
    JobRequest,
    MetadataKey,
    MetadataValue,
    Priority,
    SamplingOptions,
    TokenId,
    parse_request,
)
from tasks.structured_outputs import StructuredOutputs
from tasks.validation import STRING, TOKEN_IDS

TEXT_API, CHAT_API = "completions", "chat.completions"
"""The values of `api` in the origins of jobs."""

MAX_PROMPTS = 256
"""The most prompts of a request. Each is a job of its own."""

COMPLETION_TOKENS = 16
"""OpenAI's default for completions."""

USER_CHARACTERS = 512

OWN_FIELDS = ("model", "priority", "expires_in", "timeout", "structured_outputs")
"""Fields that mean the same in a job, beside the options for sampling."""


def without_nulls(fields: Any) -> Any:
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


def known_types(*known: str) -> BeforeValidator:
    """Refuses an object whose `type` is another one, by this field alone: its others would only confuse."""

    def check(value: Any) -> Any:
        given = value.get("type") if isinstance(value, dict) else None
        if isinstance(given, str) and given not in known:
            message = f"{json.dumps(given[:80])} is not supported, only {', '.join(known)}"
            problem = PydanticCustomError("unknown_type", "{message}", {"message": message})
            errors: list[InitErrorDetails] = [{"type": problem, "loc": ("type",), "input": given}]
            raise ValidationError.from_exception_data("type", errors)
        return value

    return BeforeValidator(check)


NotSupported = Annotated[None, only()]
NOT_SUPPORTED = Field(None, description="not supported: only null is accepted")


@contextmanager
def renamed_fields(names: Mapping[str, str]) -> Iterator[None]:
    """Renames the fields of an InvalidRequestError: that of the job -> that of this body."""
    try:
        yield
    except InvalidRequestError as error:
        found = [FieldError(names.get(one.field, one.field), one.message) for one in error.errors]
        raise InvalidRequestError(found) from None


class StreamOptions(BaseModel):
    """What a stream has beside its chunks."""

    model_config = STRICT

    include_usage: bool = Field(
        False, description="one more chunk before `[DONE]`, without choices, has the usage"
    )
    include_ids: bool = Field(
        True,
        description="false leaves out the ids of events and the first comment, for clients that expect only "
        "lines with `data`",
    )
    include_obfuscation: Annotated[bool, only(False)] = Field(
        False, description="not supported: only `false` is accepted"
    )

    _nulls = model_validator(mode="before")(without_nulls)


class Parameters(SamplingOptions):
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
    structured_outputs: Annotated[StructuredOutputs, BeforeValidator(without_nulls)] | None = Field(
        None, description="as in a job: the output matches a schema, an expression, choices or a grammar"
    )
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], only({})] = Field(
        default_factory=dict, description="not supported: only `{}` is accepted"
    )

    _nulls = model_validator(mode="before")(without_nulls)

    @field_validator("stream_options")
    @classmethod
    def _needs_a_stream(cls, options: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if not info.data.get("stream"):
            raise ValueError("is only accepted with `stream`")
        return options

    @property
    def streamed(self) -> StreamOptions:
        """What the stream has beside its chunks."""
        return self.stream_options or StreamOptions()

    def job_request(self, task: Mapping[str, Any], **changed: Any) -> JobRequest:
        """Returns the request of a job. task: its prompt or messages. Raises InvalidRequestError."""
        options = {name: getattr(self, name) for name in SamplingOptions.model_fields}
        own = {name: getattr(self, name) for name in OWN_FIELDS}
        return parse_request({**options, **own, "metadata": self.kept_metadata, **task, **changed})

    @property
    def kept_metadata(self) -> dict[str, str]:
        """The metadata of the job."""
        return {"user": self.user} if self.user is not None else {}


class CompletionMetadata(Parameters):
    """The field for metadata of both kinds of completions."""

    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA)] = Field(
        default_factory=dict, description="kept with the job; a chat completion shows it as well"
    )

    @field_validator("metadata")
    @classmethod
    def _has_room_for_the_user(cls, metadata: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if info.data.get("user") is not None and len({"user", *metadata}) > MAX_METADATA:
            raise ValueError(
                f"must have at most {MAX_METADATA - 1} pairs beside `user`, which is kept with them"
            )
        return metadata

    @property
    def kept_metadata(self) -> dict[str, str]:
        return {**super().kept_metadata, **self.metadata}


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


PromptList = Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS)]

_one_prompt: TypeAdapter[str | list[int]] = TypeAdapter(Prompt)
_prompts: TypeAdapter[list[str | list[int]]] = TypeAdapter(PromptList)


def _prompt_list(prompt: Any) -> list[str | list[int]]:
    """Returns the list that a prompt, or a list of them, stands for."""
    # An error about a single prompt names the field, since the client sent no list of prompts.
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and _is_id(prompt[0])):
        return [_one_prompt.validate_python(prompt, strict=True)]
    return _prompts.validate_python(prompt, strict=True)


class CompletionParameters(CompletionMetadata):
    """The body of a completion."""

    prompt: Annotated[
        list[str | list[int]],
        PlainValidator(
            _prompt_list, json_schema_input_type=PromptText | PromptIds | list[PromptText] | list[PromptIds]
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
        return [self.job_request(_as_task(prompt)) for prompt in self.prompt]


def _as_task(prompt: str | list[int]) -> dict[str, Any]:
    return {"prompt": prompt} if isinstance(prompt, str) else {"prompt_token_ids": prompt}
