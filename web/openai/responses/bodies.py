"""Responses as clients read them, made from jobs in any state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from tasks.answers import TokenLogprobs
from tasks.job import Choice, FinishReason, Job, Status
from web.openai.bodies import REPLACEMENT, Byte
from web.openai.chat_parameters import UNLIMITED_TOKENS
from web.openai.ids import JOB, RESPONSE, completion_id
from web.openai.responses.origin import origin_of_response

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[int, Field(ge=0)]
NotMeasured = Annotated[int, Field(ge=0, le=0, description="not measured: always 0")]

INPUT_ERROR_CODES = frozenset({"prompt_too_long", "invalid_messages", "invalid_prompt"})
"""Codes of jobs that failed because of their input."""


class OutputTopLogprobBody(TypedDict):
    """A likely token."""

    token: Annotated[str, Field(description="its text")]
    logprob: Annotated[float, Field(le=0, description="natural logarithm of its probability")]
    bytes: Annotated[
        list[Byte],
        Field(description="its text in UTF-8; empty for a part of a code point, whose bytes are unknown"),
    ]


class OutputLogprobBody(OutputTopLogprobBody):
    """A token of the output."""

    top_logprobs: Annotated[
        list[OutputTopLogprobBody], Field(description="the likeliest tokens in its place")
    ]


class OutputTextBody(TypedDict):
    """Text of an output message."""

    type: Annotated[Literal["output_text"], Field(description="always `output_text`")]
    text: Annotated[str, Field(description="the text so far")]
    annotations: Annotated[list[None], Field(description="always empty")]
    logprobs: Annotated[list[OutputLogprobBody], Field(description="of the tokens; empty unless asked for")]


class OutputMessageBody(TypedDict):
    """A message of the model."""

    id: Annotated[str, Field(description="its id: that of its response, with `msg_` for `resp_`")]
    type: Annotated[Literal["message"], Field(description="always `message`")]
    role: Annotated[Literal["assistant"], Field(description="always `assistant`")]
    status: Annotated[ItemStatus, Field(description="`incomplete`: it was cut off")]
    content: Annotated[list[OutputTextBody], Field(description="its texts; an output has one")]


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


class TextFormatBody(TypedDict):
    """The form of the output."""

    type: Annotated[Literal["text"], Field(description="always `text`")]


class TextConfigBody(TypedDict):
    """The form of the output."""

    format: Annotated[TextFormatBody, Field(description="its kind")]


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
    output: Annotated[list[OutputMessageBody], Field(description="one message, once it has begun")]
    parallel_tool_calls: Annotated[Literal[True], Field(description="always true")]
    previous_response_id: Annotated[str | None, Field(description="the response that it continues")]
    service_tier: Annotated[Literal["default"], Field(description="always `default`")]
    temperature: Annotated[float, Field(ge=0, le=2, description="as given in the request, or 1")]
    text: Annotated[TextConfigBody, Field(description="the form of the output")]
    tool_choice: Annotated[Literal["auto"], Field(description="always `auto`")]
    tools: Annotated[list[None], Field(description="always empty")]
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
    if has_begun(choice):
        item: ItemStatus = "in_progress" if not job.is_ended else _item_status(status)
        body["output"] = [output_message(output_id(job), [choice.text], item, choice.logprobs)]
    if job.is_ended:
        body["usage"] = _usage(job)
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
        "parallel_tool_calls": True,
        "previous_response_id": origin["turns"][-1]["id"] if origin["turns"] else None,
        "service_tier": "default",
        "temperature": request["temperature"],
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
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


def has_begun(choice: Choice) -> bool:
    """Returns whether the output has its message, which the first token or the end of the output brings."""
    is_whole = choice.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    return bool(choice.token_ids or choice.text) or is_whole


def output_id(job: Job) -> str:
    return "msg_" + job.id.removeprefix(JOB)


def output_message(
    item_id: str, texts: Sequence[str], status: ItemStatus, logprobs: Sequence[TokenLogprobs] = ()
) -> OutputMessageBody:
    """Returns a message of the model. logprobs: of its first text."""
    content = [output_text(text, () if place else logprobs) for place, text in enumerate(texts)]
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def output_text(text: str, logprobs: Sequence[TokenLogprobs] = ()) -> OutputTextBody:
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": [
            {
                **_token(token["token"], token["logprob"]),
                "top_logprobs": [_token(top["token"], top["logprob"]) for top in token["top_logprobs"]],
            }
            for token in logprobs
        ],
    }


def _item_status(status: ResponseStatus) -> ItemStatus:
    return "completed" if status == "completed" else "incomplete"


def _usage(job: Job) -> ResponseUsageBody:
    return {
        "input_tokens": job.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": job.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": job.prompt_tokens + job.completion_tokens,
    }


def _token(text: str, logprob: float) -> OutputTopLogprobBody:
    return {"token": text, "logprob": logprob, "bytes": [] if REPLACEMENT in text else list(text.encode())}
