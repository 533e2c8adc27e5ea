"""Responses as clients read them, made from jobs in any state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from tasks.job import FinishReason, Job, Status
from web.openai.chat_parameters import UNLIMITED_TOKENS
from web.openai.divided_output import Added
from web.openai.ids import RESPONSE, completion_id
from web.openai.responses.items import ItemStatus, OutputItemBody
from web.openai.responses.origin import FunctionChoice, ResponseOrigin, origin_of_response
from web.openai.responses.output import OutputItems

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[int, Field(ge=0)]
NotMeasured = Annotated[int, Field(ge=0, le=0, description="not measured: always 0")]

INPUT_ERROR_CODES = frozenset({"prompt_too_long", "invalid_messages", "invalid_prompt", "invalid_grammar"})
"""Codes of jobs that failed because of their input."""


class ResponseErrorBody(TypedDict):
    """Why a response failed."""

    code: Annotated[
        Literal["invalid_prompt", "server_error"], Field(description="`invalid_prompt`: because of its input")
    ]
    message: Annotated[str, Field(description="the reason in words")]
    type: Annotated[str, Field(description="the code of the job's error", examples=["timeout"])]


class IncompleteDetailsBody(TypedDict):
    """Why a response is incomplete."""

    reason: Annotated[
        Literal["max_output_tokens"],
        Field(description="the output ended at `max_output_tokens`, or at the model's length"),
    ]


class InputTokensDetailsBody(TypedDict):
    """Parts of the input's tokens."""

    cached_tokens: NotMeasured
    cache_write_tokens: NotMeasured


class OutputTokensDetailsBody(TypedDict):
    """Parts of the output's tokens."""

    reasoning_tokens: NotMeasured


class ResponseUsageBody(TypedDict):
    """How many tokens a response took."""

    input_tokens: Annotated[int, Field(ge=0, description="of the instructions and the whole input")]
    input_tokens_details: Annotated[InputTokensDetailsBody, Field(description="parts of them")]
    output_tokens: Annotated[int, Field(ge=0, description="generated tokens")]
    output_tokens_details: Annotated[OutputTokensDetailsBody, Field(description="parts of them")]
    total_tokens: Annotated[int, Field(ge=0, description="the sum of both")]


class PlainFormatBody(TypedDict):
    """The form of the output."""

    type: Annotated[Literal["text", "json_object"], Field(description="`json_object`: any JSON object")]


class SchemaFormatBody(TypedDict):
    """A JSON schema that the output matches."""

    type: Annotated[Literal["json_schema"], Field(description="always `json_schema`")]
    name: Annotated[str, Field(description="as given in the request")]
    description: Annotated[str | None, Field(description="as given in the request")]
    schema: Annotated[dict[str, Any], Field(description="as given in the request")]
    strict: Annotated[bool | None, Field(description="as given in the request; it always matches")]


class TextConfigBody(TypedDict):
    """The form of the output."""

    format: Annotated[PlainFormatBody | SchemaFormatBody, Field(description="its kind")]


class FunctionToolBody(TypedDict):
    """A function that the model may call."""

    type: Annotated[Literal["function"], Field(description="always `function`")]
    name: Annotated[str, Field(description="as given in the request")]
    description: Annotated[str | None, Field(description="as given in the request")]
    parameters: Annotated[dict[str, Any] | None, Field(description="as given in the request")]
    strict: Annotated[bool | None, Field(description="as given in the request")]


class ResponseBody(TypedDict):
    """A response."""

    id: Annotated[str, Field(description="that of its job, with `resp_` for `job_`")]
    object: Annotated[Literal["response"], Field(description="always `response`")]
    created_at: Annotated[int, Field(ge=0, description="Unix time at which it was accepted, in seconds")]
    status: Annotated[ResponseStatus, Field(description="`queued` and `in_progress` are not final")]
    background: Annotated[bool, Field(description="whether it goes on without its client")]
    completed_at: Annotated[
        Seconds | None, Field(description="Unix time in seconds; null unless it is `completed`")
    ]
    error: Annotated[ResponseErrorBody | None, Field(description="why it failed; null otherwise")]
    incomplete_details: Annotated[
        IncompleteDetailsBody | None, Field(description="null unless it is `incomplete`")
    ]
    instructions: Annotated[str | None, Field(description="as given in the request")]
    max_output_tokens: Annotated[Count | None, Field(description="as given in the request")]
    metadata: Annotated[dict[str, str], Field(description="as given in the request")]
    model: Annotated[str, Field(description="the model that it runs on")]
    output: Annotated[
        list[OutputItemBody],
        Field(
            description="what has begun: reasoning if the model writes any, a message; with `tools`, calls"
        ),
    ]
    parallel_tool_calls: Annotated[bool, Field(description="as given in the request, or true")]
    previous_response_id: Annotated[str | None, Field(description="the response that it continues")]
    service_tier: Annotated[Literal["default"], Field(description="always `default`")]
    temperature: Annotated[float, Field(ge=0, le=2, description="as given in the request, or 1")]
    text: Annotated[TextConfigBody, Field(description="the form of the output")]
    tool_choice: Annotated[
        Literal["auto", "none", "required"] | FunctionChoice,
        Field(description="as given in the request, or `auto`"),
    ]
    tools: Annotated[list[FunctionToolBody], Field(description="as given in the request")]
    top_logprobs: Annotated[int, Field(ge=0, le=5, description="as given in the request, or 0")]
    top_p: Annotated[float, Field(gt=0, le=1, description="as given in the request, or 1")]
    truncation: Annotated[Literal["disabled"], Field(description="always `disabled`")]
    usage: Annotated[ResponseUsageBody | None, Field(description="null until it has ended")]
    user: Annotated[str | None, Field(description="as given in the request")]


class DeletedResponseBody(TypedDict):
    """A response that was deleted."""

    id: Annotated[str, Field(description="its id")]
    object: Annotated[Literal["response"], Field(description="always `response`")]
    deleted: Annotated[Literal[True], Field(description="always true")]


def response(job: Job) -> ResponseBody:
    """Returns the response as it is now, with its output so far."""
    status = status_of(job)
    body = opening(job, status)
    [choice] = job.output
    items = OutputItems(job)
    if has_begun(choice.token_ids, choice.text):
        items.add(Added.of_choice(choice))
    if job.is_ended:
        body["output"], _ = items.finish(choice, item_status(status))
        body["usage"] = _usage(job)
    else:
        body["output"] = items.so_far(choice)
    if status == "completed" and job.ended_at is not None:
        body["completed_at"] = int(job.ended_at)
    if status == "incomplete":
        body["incomplete_details"] = {"reason": "max_output_tokens"}
    if status == "failed" and job.error is not None:
        is_of_input = job.error.code in INPUT_ERROR_CODES
        body["error"] = {
            "code": "invalid_prompt" if is_of_input else "server_error",
            "message": job.error.message,
            "type": job.error.code,
        }
    return body


def opening(job: Job, status: ResponseStatus) -> ResponseBody:
    """Returns the response without what it has generated. It depends only on what was submitted."""
    origin, request = origin_of_response(job), job.request
    most = request["max_tokens"]
    return {
        "id": completion_id(RESPONSE, job.id),
        "object": "response",
        "created_at": int(job.created_at),
        "status": status,
        "background": origin["background"],
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": origin["instructions"],
        "max_output_tokens": None if most == UNLIMITED_TOKENS else most,
        "metadata": request["metadata"],
        "model": job.model,
        "output": [],
        "parallel_tool_calls": origin.get("parallel_tool_calls", True),
        "previous_response_id": origin["turns"][-1]["id"] if origin["turns"] else None,
        "service_tier": "default",
        "temperature": request["temperature"],
        "text": {"format": _format(origin, request)},
        "tool_choice": origin.get("tool_choice", "auto"),
        "tools": [_tool(tool) for tool in origin.get("hidden_tools") or request.get("tools") or ()],
        "top_logprobs": request.get("logprobs") or 0,
        "top_p": request["top_p"],
        "truncation": "disabled",
        "usage": None,
        "user": origin["user"],
    }


def status_of(job: Job) -> ResponseStatus:
    match job.status:
        case Status.QUEUED:
            return "queued"
        case Status.IN_PROGRESS:
            return "in_progress"
        case Status.COMPLETED:
            return "incomplete" if job.output[0].finish_reason is FinishReason.LENGTH else "completed"
        case Status.CANCELLED:
            return "cancelled"
        case Status.FAILED | Status.EXPIRED:
            return "failed"


def has_begun(token_ids: Sequence[int], text: str) -> bool:
    """Returns whether an output, or an entry of the log, has tokens. Their text may be held back."""
    return bool(token_ids or text)


def item_status(status: ResponseStatus) -> ItemStatus:
    """Returns the status of the last message of a response that has ended."""
    return "completed" if status == "completed" else "incomplete"


def _format(origin: ResponseOrigin, request: Mapping[str, Any]) -> PlainFormatBody | SchemaFormatBody:
    given = origin.get("format")
    if given is None:
        return {"type": "text"}
    if given["type"] == "json_object":
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "name": given["name"],
        "description": given.get("description"),
        "schema": request["structured_outputs"]["json"],
        "strict": given.get("strict"),
    }


def _tool(tool: Mapping[str, Any]) -> FunctionToolBody:
    function = tool["function"]
    return {
        "type": "function",
        "name": function["name"],
        "description": function.get("description"),
        "parameters": function.get("parameters"),
        "strict": function.get("strict"),
    }


def _usage(job: Job) -> ResponseUsageBody:
    return {
        "input_tokens": job.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": job.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": job.prompt_tokens + job.completion_tokens,
    }
