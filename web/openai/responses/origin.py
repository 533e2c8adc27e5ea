"""What the record of a job has beside its request, so that the job can be shown as a response."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field
from typing_extensions import TypedDict

from tasks.job import Job
from web.openai.output_formats import ResponseFormat

API: Literal["responses"] = "responses"


class Turn(TypedDict):
    """An earlier response of the conversation.

    `messages`: how many it had as its own input. `outputs`: how many its output became.
    """

    id: str
    messages: int
    outputs: int


class FormatOrigin(TypedDict):
    """The form of the output as the client gave it, without its schema, which the request has."""

    type: Literal["json_object", "json_schema"]
    name: NotRequired[str]
    description: NotRequired[str]
    strict: NotRequired[bool]


class FunctionChoice(TypedDict):
    """The function that must be called."""

    type: Annotated[Literal["function"], Field(description="always `function`")]
    name: Annotated[str, Field(description="its name")]


class ResponseOrigin(TypedDict):
    """A job's `origin`.

    `instructions` are a copy, because the request is cut short if it could never run, and the events of a
    stream must stay the same. `turns`: the earlier responses, the first one first. The job's messages are the
    instructions, then the input and the output of each turn, then its own input.

    The fields after these are absent unless they differ from the default. `hidden_tools`: those that the
    request lacks because of the choice `none`, in its shape.
    """

    api: Literal["responses"]
    background: bool
    store: bool
    instructions: str | None
    turns: list[Turn]
    user: str | None
    parallel_tool_calls: NotRequired[bool]
    tool_choice: NotRequired[Literal["none", "required"] | FunctionChoice]
    hidden_tools: NotRequired[list[dict[str, Any]]]
    format: NotRequired[FormatOrigin]


def format_origin(given: ResponseFormat) -> FormatOrigin:
    """Returns what is kept of a form beside its schema. given: no text."""
    schema = given.json_schema
    fields = {} if schema is None else schema.model_dump(exclude={"json_schema"}, exclude_none=True)
    return cast(FormatOrigin, {"type": given.type, **fields})


def origin_of(job: Job) -> ResponseOrigin | None:
    """Returns the origin of a response's job; None if another API made the job."""
    if job.origin is None or job.origin.get("api") != API:
        return None
    return cast(ResponseOrigin, job.origin)


def origin_of_response(job: Job) -> ResponseOrigin:
    """Returns the origin of a job that is a response."""
    origin = origin_of(job)
    assert origin is not None, job.id
    return origin
