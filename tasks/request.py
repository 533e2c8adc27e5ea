"""The submit body, validated by the same rules for HTTP and for `tasks.submit`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tasks.errors import FieldError, InvalidGrammarError, InvalidRequestError
from tasks.grammar_check import check_grammar
from tasks.messages import Message
from tasks.settings import EngineKind
from tasks.structured_outputs import StructuredOutputs
from tasks.tools import Tool
from tasks.validation import field_errors, require_object

MAX_SEED = 2**63 - 1
MAX_METADATA = 16

LEAST_REPETITION_PENALTY = 1e-6
"""Logits are divided by it; with a much smaller one the quotient would exceed a float32."""

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
"""Unknown fields and wrong types are refused."""


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


StopString = Annotated[str, Field(min_length=1, max_length=64)]
StopStrings = Annotated[list[StopString], Field(max_length=4)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


_one_stop: TypeAdapter[str] = TypeAdapter(StopString)
_stops: TypeAdapter[list[str]] = TypeAdapter(StopStrings)


def _stop_list(stop: Any) -> list[str]:
    """Returns the list that a stop string, a list of them, or None stands for."""
    if stop is None:
        return []
    # An error about a single string names the field, since the client sent no list.
    if isinstance(stop, str):
        return [_one_stop.validate_python(stop, strict=True)]
    return _stops.validate_python(stop, strict=True)


def _only(neutral: float | None) -> BeforeValidator:
    """Refuses every value except the one without an effect, so that no option is silently ignored."""

    def check(value: Any) -> Any:
        if isinstance(value, bool) or value != neutral:
            raise ValueError("is not supported yet")
        return value

    return BeforeValidator(check)


class _Task(BaseModel):
    """What is to be continued, and by which model."""

    model_config = STRICT

    prompt: str | None = Field(
        None,
        min_length=1,
        description="the text to continue; either this, `prompt_token_ids` or `messages`",
        examples=["Once upon a time"],
    )
    prompt_token_ids: list[TokenId] | None = Field(
        None, min_length=1, description="the tokens to continue, as the model's own ids"
    )
    messages: list[Message] | None = Field(
        None, min_length=1, description="a conversation, rendered by the model's chat template"
    )
    tools: list[Tool] | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="only with `messages`: what the model may call. The output has the model's own form of a "
        "call; `/v1/chat/completions` turns it into OpenAI's",
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="one of `/v1/models`; by default the server's own",
        examples=["bundled"],
    )
    # JSON has no enums: a string is the strict form here.
    engine: Annotated[EngineKind | None, Field(strict=False)] = Field(
        None, description="only workers with this engine; by default any"
    )


class SamplingOptions(BaseModel):
    """How output is generated: the part of a request that reaches the engine as it is.

    A new option is declared here and applied in `worker/engine/sampling.py`. Nothing in between names it.
    """

    model_config = STRICT

    max_tokens: int = Field(
        64,
        ge=1,
        le=2**31 - 1,
        description="tokens to generate at most, for each choice; fewer where the model's length ends first",
    )
    temperature: float = Field(
        1, ge=0, le=2, description="0 always takes the likeliest token", examples=[0.7]
    )
    top_p: float = Field(
        1, gt=0, le=1, description="sample from the likeliest tokens whose probabilities add up to this"
    )
    top_k: int = Field(
        0, ge=0, le=2**31 - 1, description="sample from this many of the likeliest tokens; 0 is off"
    )
    stop: Annotated[
        list[str], PlainValidator(_stop_list, json_schema_input_type=StopString | StopStrings | None)
    ] = Field(
        default_factory=list,
        description="end before any of these strings, which do not become part of the output",
        examples=[["\n\n"]],
    )
    min_p: float = Field(
        0, ge=0, le=1, description="leave out tokens less likely than this times the likeliest one"
    )
    repetition_penalty: float = Field(
        1,
        ge=LEAST_REPETITION_PENALTY,
        le=2,
        description="above 1: tokens of the prompt and the output become less likely",
    )
    presence_penalty: float = Field(
        0, ge=-2, le=2, description="above 0: tokens that the output has already become less likely"
    )
    frequency_penalty: float = Field(
        0,
        ge=-2,
        le=2,
        description="above 0: the more often the output has a token, the less likely it becomes",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="the same seed gives the same text; by default drawn",
        examples=[1],
    )
    n: int = Field(1, ge=1, le=8, description="number of choices, each of which takes a slot of a worker")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=5,
        description="log probabilities of the tokens, and of this many of the likeliest ones beside each",
    )
    ignore_eos: bool = Field(False, description="go on to `max_tokens` where the model would end")


class JobRequest(SamplingOptions, _Task):
    """The submit body with its defaults filled in. Unknown fields and wrong types are refused."""

    structured_outputs: StructuredOutputs | None = Field(
        None, description="restricts the output to a JSON schema, a regular expression, choices or a grammar"
    )
    priority: Annotated[Priority, Field(strict=False)] = Field(
        Priority.NORMAL,
        description="a head start in the line, or the opposite of it; a running job of priority `low` gives "
        "its slots to waiting jobs of higher priority and continues later",
    )
    expires_in: float | None = Field(
        None,
        gt=0,
        le=31_536_000,
        description="seconds that the job may wait for its first start; then it expires",
    )
    timeout: float | None = Field(
        None,
        gt=0,
        le=31_536_000,
        description="seconds from its first start after which the job fails; its output so far is kept",
    )
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA)] = Field(
        default_factory=dict, description="comes back with the job", examples=[{"customer": "17"}]
    )

    # It is in the contract but not built yet, so every value that asks for something is refused by name.
    webhook: Annotated[dict[str, Any] | None, _only(None)] = Field(
        None, description="not supported yet: only null is accepted"
    )

    @model_validator(mode="after")
    def _prompt_or_messages(self) -> Self:
        if sum(given is not None for given in (self.prompt, self.prompt_token_ids, self.messages)) != 1:
            raise ValueError("exactly one of prompt, prompt_token_ids and messages is required")
        return self

    @field_validator("tools")
    @classmethod
    def _tools_need_messages(cls, tools: list[Tool] | None, info: ValidationInfo) -> list[Tool] | None:
        if tools is not None and info.data.get("messages") is None:
            raise ValueError("is only accepted with messages")
        return tools


SINCE_VERSION: Mapping[str, int] = {
    "prompt_token_ids": 2,
    "structured_outputs": 2,
    "tools": 2,
    "tool_calls": 2,
    "tool_call_id": 2,
    "reasoning_content": 2,
    "name": 2,
}
"""Fields of requests and messages that came after the first release: field -> the version of the record that
brought it.

A new field is None, and so absent from the record, unless the client asks for it. The first new field after a
release has the next version, and the others have the same.
"""

RECORD_VERSION = max(SINCE_VERSION.values(), default=1)
"""The newest version of a job's record that this release understands."""


def version_of(accepted: Mapping[str, Any]) -> int:
    """Returns the record version that a worker must understand to run this request (docs/upgrades.md)."""
    fields = {*accepted, *(field for message in accepted.get("messages") or () for field in message)}
    return max((SINCE_VERSION.get(field, 1) for field in fields), default=1)


def parse_request(body: Any) -> JobRequest:
    """Returns a decoded JSON body, validated. Raises InvalidRequestError, which names each bad field.

    A grammar is compiled in a process of its own, which takes 0.1 s for one that is not known yet.
    """
    require_object(body)
    try:
        request = JobRequest.model_validate(body)
        if request.structured_outputs is not None:
            check_grammar(request.structured_outputs)
    except ValidationError as error:
        raise InvalidRequestError(field_errors(error, JobRequest.model_fields)) from None
    except InvalidGrammarError as error:
        raise InvalidRequestError([FieldError(error.field, error.problem)]) from None
    return request
