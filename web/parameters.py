"""Query parameters and headers of requests. `tasks.request` has the body of a submit."""

from __future__ import annotations

import re
from typing import Literal, TypeVar

from flask import request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.http import parse_dict_header

from tasks.errors import FieldError, InvalidRequestError
from tasks.job import Status
from tasks.request import field_errors

MAX_WAIT_SECONDS = 60
MAX_SEQ = 2**63 - 1

Model = TypeVar("Model", bound=BaseModel)


class _Query(BaseModel):
    # Unknown parameters (a cache buster, a ticket) are ignored.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class WaitQuery(_Query):
    wait: float = Field(0, ge=0, le=MAX_WAIT_SECONDS, description="seconds to wait for the job's end")


class ListQuery(_Query):
    status: Status | None = Field(None, description="only jobs of this status", examples=["completed"])
    limit: int = Field(20, ge=1, le=100, description="jobs per page")
    after: str | None = Field(None, min_length=1, description="id of the last job of the page before")
    fields: Literal["all", "summary"] = Field(
        "all",
        description="`summary`: of each job only id, status, model, created_at, queue_position and `prompt`, "
        "the first 200 characters of its prompt or messages",
    )


class StreamQuery(_Query):
    """For the documentation: `resume_after`, `wants_short_done` and `web.auth` read these.

    Each has an answer of its own.
    """

    after: int = Field(0, ge=0, description="seq of the last event already seen")
    done: Literal["full", "short"] = Field(
        "full", description="`short`: the job in the `done` event lacks `request` and `output`"
    )
    ticket: str | None = Field(None, description="instead of a key")


def parse_query(model: type[Model]) -> Model:
    """Returns the request's query. Raises InvalidRequestError, which names each bad parameter."""
    try:
        return model.model_validate(request.args.to_dict())
    except ValidationError as error:
        raise InvalidRequestError(field_errors(error)) from None


def preferred_wait() -> int | None:
    """Returns N of `Prefer: wait=N`, or None without it. Other preferences are ignored, as RFC 7240 says.

    Raises InvalidRequestError.
    """
    preferences = parse_dict_header(request.headers.get("Prefer", ""))
    values = [value for name, value in preferences.items() if name.lower() == "wait"]
    if not values:
        return None
    seconds = (values[0] or "").partition(";")[0].strip()
    if not re.fullmatch("[0-9]{1,9}", seconds) or int(seconds) > MAX_WAIT_SECONDS:
        message = f"wait must be a whole number of seconds from 0 to {MAX_WAIT_SECONDS}"
        raise InvalidRequestError([FieldError("Prefer", message)])
    return int(seconds)


def idempotency_key() -> str | None:
    """Returns the header Idempotency-Key, or None. Raises InvalidRequestError."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch("[!-~]{1,255}", key):
        message = "must be 1 to 255 printable ASCII characters without spaces"
        raise InvalidRequestError([FieldError("Idempotency-Key", message)])
    return key


def resume_after() -> int:
    """Returns the seq after which a stream begins. Raises InvalidRequestError.

    An EventSource that connects again repeats its URL and adds the header, so the header is newer.
    """
    header = request.headers.get("Last-Event-ID", "")
    if header:
        return _parse_seq("Last-Event-ID", header)
    return _parse_seq("after", request.args.get("after", "0"))


def wants_short_done() -> bool:
    """Returns whether the job in a `done` event lacks its long fields. Raises InvalidRequestError."""
    form = request.args.get("done", "full")
    if form not in ("full", "short"):
        raise InvalidRequestError([FieldError("done", "must be 'full' or 'short'")])
    return form == "short"


def _parse_seq(field: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) > MAX_SEQ:
        raise InvalidRequestError([FieldError(field, "must be a whole number from 0 on")])
    return int(text)
