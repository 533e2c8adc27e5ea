"""Query parameters and headers of requests. `tasks.request` has the body of a submit."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Literal, TypeVar

from flask import request
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from werkzeug.http import parse_dict_header

from tasks.errors import FieldError, InvalidRequestError
from tasks.job import Status
from tasks.validation import field_errors
from web.endpoints import BAD_FIELD, Input

MAX_WAIT_SECONDS = 60
MAX_SEQ = 2**63 - 1

LAST_EVENT_ID = "Last-Event-ID"

BAD_QUERY = {422: "names each bad parameter"}

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


class FileListQuery(_Query):
    purpose: str | None = Field(None, min_length=1, description="only files with this purpose")
    limit: int = Field(10_000, ge=1, le=10_000, description="files per page")
    order: Literal["asc", "desc"] = Field("desc", description="by creation time: `desc` has the newest first")
    after: str | None = Field(None, min_length=1, description="id of the last file of the page before")


class BatchListQuery(_Query):
    limit: int = Field(20, ge=1, le=100, description="batches per page")
    after: str | None = Field(None, min_length=1, description="id of the last batch of the page before")


class ContentQuery(_Query):
    offset: int = Field(0, ge=0, le=2**31 - 1, description="lines to leave out at the start")


def _seq(text: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) > MAX_SEQ:
        raise ValueError("must be a whole number from 0 on")
    return int(text)


def _form(text: str) -> str:
    if text not in ("full", "short"):
        raise ValueError("must be 'full' or 'short'")
    return text


class ResumableQuery(_Query):
    """The query of a stream, which a header may resume as well."""

    @staticmethod
    def resumed_after(seq: str) -> dict[str, str]:
        """Returns the parameters that resume the stream after an event."""
        return {"after": seq}


class AfterQuery(ResumableQuery):
    after: Annotated[int, BeforeValidator(_seq)] = Field(
        0, ge=0, description="seq of the last event already seen"
    )


class StreamQuery(AfterQuery):
    done: Annotated[Literal["full", "short"], BeforeValidator(_form)] = Field(
        "full", description="`short`: the job in the `done` event lacks `request` and `output`"
    )


class CompletionQuery(AfterQuery):
    stream: bool = Field(False, description="answer with its chunks; so does `after`")
    include_usage: bool = Field(False, description="as `stream_options.include_usage`")

    @property
    def is_stream(self) -> bool:
        return self.stream or "after" in self.model_fields_set


Included = Annotated[
    list[Literal["message.output_text.logprobs"]],
    Field(
        alias="include[]",
        description="has no effect: log probabilities are shown if the response was made with them",
    ),
]


class ResponseQuery(ResumableQuery):
    include: Included = []
    stream: bool = Field(False, description="answer with its events; so does the header `Last-Event-ID`")
    starting_after: Annotated[int | None, BeforeValidator(_seq)] = Field(
        None, ge=0, description="with `stream`: number of the last event already seen"
    )
    include_obfuscation: bool = Field(False, description="not supported: only `false` is accepted")

    @staticmethod
    def resumed_after(seq: str) -> dict[str, str]:
        return {"stream": "true", "starting_after": seq}

    @field_validator("starting_after")
    @classmethod
    def _needs_a_stream(cls, number: int | None, info: ValidationInfo) -> int | None:
        if not info.data.get("stream"):
            raise ValueError("is only accepted with `stream=true`")
        return number

    @field_validator("include_obfuscation")
    @classmethod
    def _is_off(cls, value: bool) -> bool:
        if value:
            raise ValueError("is not supported; only false is accepted")
        return value


class ItemListQuery(_Query):
    include: Included = []
    order: Literal["asc", "desc"] = Field("desc", description="`desc`: the newest item first")
    limit: int = Field(20, ge=1, le=100, description="items per page")
    after: str | None = Field(None, min_length=1, description="id of the last item of the page before")


class TicketQuery(_Query):
    ticket: str | None = Field(None, description="instead of a key")


def from_query(model: type[BaseModel]) -> Input:
    """Returns an input that validates the request's query with a model."""
    return Input(partial(parse_query, model), query=model, refusals=BAD_QUERY)


def parse_query(model: type[Model], **changed: str) -> Model:
    """Returns the request's query, with some values changed.

    A parameter is a list if its name ends with `[]`.
    Raises InvalidRequestError, which names each bad parameter.
    """
    given = {name: values if name.endswith("[]") else values[0] for name, values in request.args.lists()}
    try:
        return model.model_validate(given | changed)
    except ValidationError as error:
        raise InvalidRequestError(field_errors(error)) from None


def resumable(model: type[ResumableQuery]) -> Input:
    """Returns an input that validates the query of a stream, which may be resumed by a header as well."""
    headers = {LAST_EVENT_ID: "resume after this event"}
    return Input(partial(_parse_resumable, model), query=model, headers=headers, refusals=BAD_QUERY)


def _parse_resumable(model: type[ResumableQuery]) -> ResumableQuery:
    # An EventSource that connects again repeats its URL and adds the header, so the header is newer.
    header = request.headers.get(LAST_EVENT_ID, "")
    if not header:
        return parse_query(model)
    try:
        return parse_query(model, **model.resumed_after(str(_seq(header))))
    except ValueError as error:
        raise InvalidRequestError([FieldError(LAST_EVENT_ID, str(error))]) from None


def _preferred_wait() -> int | None:
    """Returns N of `Prefer: wait=N`. Other preferences are ignored, as RFC 7240 says."""
    preferences = parse_dict_header(request.headers.get("Prefer", ""))
    values = [value for name, value in preferences.items() if name.lower() == "wait"]
    if not values:
        return None
    seconds = (values[0] or "").partition(";")[0].strip()
    if not re.fullmatch("[0-9]{1,9}", seconds) or int(seconds) > MAX_WAIT_SECONDS:
        message = f"wait must be a whole number of seconds from 0 to {MAX_WAIT_SECONDS}"
        raise InvalidRequestError([FieldError("Prefer", message)])
    return int(seconds)


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch("[!-~]{1,255}", key):
        message = "must be 1 to 255 printable ASCII characters without spaces"
        raise InvalidRequestError([FieldError("Idempotency-Key", message)])
    return key


StreamParameters = Annotated[StreamQuery, resumable]
"""Where a stream begins and how it ends."""

CompletionStreamParameters = Annotated[CompletionQuery, resumable]
"""Whether a completion is shown as a stream, and where that begins."""

ResponseStreamParameters = Annotated[ResponseQuery, resumable]
"""Whether a response is shown as a stream, and where that begins."""

PreferredWait = Annotated[
    int | None,
    Input(
        _preferred_wait,
        headers={"Prefer": "`wait=N` holds the reply until the job has ended, at most 60 s"},
        refusals=BAD_FIELD,
    ),
]
"""Seconds; None without the header."""

IdempotencyKey = Annotated[
    str | None,
    Input(
        _idempotency_key,
        headers={"Idempotency-Key": "the same key and body bring the same job"},
        refusals=BAD_FIELD,
    ),
]
