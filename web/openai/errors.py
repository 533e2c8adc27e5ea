"""Errors in OpenAI's shape, with the statuses from which its SDK chooses its exception classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

from flask import Response
from pydantic import Field
from typing_extensions import TypedDict

from tasks.errors import ModelNotFoundError, UnknownModelError
from web.error_responses import ErrorReport, ErrorShape
from web.render import to_json

MESSAGES, PROMPT, INPUT = "messages", "prompt", "input"
"""The fields of chat completions, completions and responses that have the prompt."""

CODES = {
    "prompt_too_long": "context_length_exceeded",
    "unauthorized": "invalid_api_key",
}
"""Our codes -> OpenAI's, where programs look for these."""

PROMPT_CODES = frozenset({"context_length_exceeded", "invalid_messages", "invalid_prompt"})
"""Codes of errors about the prompt, which do not name its field."""

FINAL_CODES = frozenset({"cancelled", "poison", "timeout", "expired"})
"""Codes of jobs that somebody ended, or that would only fail again. OpenAI's SDK repeats a call that got a
409 or a 5xx, unless the answer says that it should not."""


class ErrorDetailBody(TypedDict):
    """What went wrong."""

    message: Annotated[str, Field(description="what went wrong, in words")]
    type: Annotated[str, Field(description="the kind of error", examples=["invalid_request_error"])]
    param: Annotated[str | None, Field(description="the first bad field; null if the error is about none")]
    code: Annotated[
        str, Field(description="the kind of error, for programs", examples=["context_length_exceeded"])
    ]


class ErrorBody(TypedDict):
    """What went wrong, in OpenAI's shape."""

    error: Annotated[ErrorDetailBody, Field(description="what went wrong")]


@contextmanager
def models_not_found() -> Iterator[None]:
    """Turns the refusal of a model that no worker announced into a ModelNotFoundError, which is a 404."""
    try:
        yield
    except UnknownModelError as error:
        raise ModelNotFoundError(error.errors[0].message) from None


def status_of(status: int) -> int:
    """Returns OpenAI's status: it has no 422."""
    return 400 if status == 422 else status


def error_body(
    status: int, code: str, message: str, param: str | None = None, prompt_field: str = MESSAGES
) -> ErrorBody:
    """Returns the body of an error. status: ours. code: ours or OpenAI's. prompt_field: has the prompt."""
    code = CODES.get(code, code)
    known = {"model_not_found": "model", **dict.fromkeys(PROMPT_CODES, prompt_field)}
    return {
        "error": {
            "message": message,
            "type": _type(status_of(status)),
            "param": param or known.get(code),
            "code": code,
        }
    }


def _encode(report: ErrorReport, prompt_field: str = MESSAGES) -> Response:
    param = report.fields[0].field if report.fields else None
    body = error_body(report.status, report.code, report.detail, param, prompt_field)
    response = Response(to_json(body), status_of(report.status), mimetype="application/json")
    if report.code in FINAL_CODES:
        response.headers["x-should-retry"] = "false"
    return response


def _type(status: int) -> str:
    match status:
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case 429:
            return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def _shape(prompt_field: str) -> ErrorShape:
    return ErrorShape(partial(_encode, prompt_field=prompt_field), ErrorBody, "application/json", status_of)


SHAPE = _shape(MESSAGES)
COMPLETIONS_SHAPE = _shape(PROMPT)
RESPONSES_SHAPE = _shape(INPUT)
