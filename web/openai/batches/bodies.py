"""Files and batches as clients read them, and the body that makes a batch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from typing_extensions import TypedDict

from tasks.batch import Batch, BatchStatus
from tasks.request import STRICT, MetadataKey, MetadataValue
from tasks.uploads import FileRecord
from web.openai.parameters import without_nulls
from web.openai.uploads import ExpiresAfter

MAX_HOURS = 168

UnixTime = Annotated[int, Field(ge=0, description="Unix time, in seconds")]
OptionalTime = Annotated[
    int | None, Field(ge=0, description="Unix time, in seconds; null if this has not happened")
]


class FileBody(TypedDict):
    """A file."""

    id: Annotated[str, Field(description="its id")]
    object: Annotated[Literal["file"], Field(description="always `file`")]
    bytes: Annotated[int, Field(ge=0, description="its length")]
    created_at: UnixTime
    expires_at: Annotated[
        int | None, Field(ge=0, description="Unix time at which it is removed; null while its batch runs")
    ]
    filename: Annotated[str, Field(description="its name")]
    purpose: Annotated[Literal["batch", "batch_output"], Field(description="`batch_output`: made by a batch")]
    status: Annotated[
        Literal["uploaded", "processed"], Field(description="`uploaded`: its batch may append to it")
    ]
    status_details: Annotated[None, Field(description="always null")]


class FileListBody(TypedDict):
    """A page of files."""

    object: Annotated[Literal["list"], Field(description="always `list`")]
    data: Annotated[list[FileBody], Field(description="the files")]
    has_more: Annotated[bool, Field(description="whether there are more")]
    first_id: Annotated[str | None, Field(description="id of the first one")]
    last_id: Annotated[str | None, Field(description="id of the last one: `after` of the next page")]


class FileDeletedBody(TypedDict):
    """A file that was deleted."""

    id: Annotated[str, Field(description="its id")]
    object: Annotated[Literal["file"], Field(description="always `file`")]
    deleted: Annotated[Literal[True], Field(description="always true")]


class RequestCountsBody(TypedDict):
    """How many requests a batch has."""

    total: Annotated[int, Field(ge=0, description="lines of the input file; 0 until it is validated")]
    completed: Annotated[int, Field(ge=0, description="lines of the output file")]
    failed: Annotated[int, Field(ge=0, description="lines of the error file")]


class BatchErrorBody(TypedDict):
    """What is wrong with a batch."""

    code: Annotated[str, Field(description="the kind of error, for programs", examples=["invalid_json_line"])]
    line: Annotated[int | None, Field(ge=1, description="line of the input file, counted from 1")]
    message: Annotated[str, Field(description="what is wrong, in words")]
    param: Annotated[str | None, Field(description="the bad field of the line")]


class BatchErrorsBody(TypedDict):
    """Why a batch failed."""

    object: Annotated[Literal["list"], Field(description="always `list`")]
    data: Annotated[list[BatchErrorBody], Field(description="the errors, at most 100")]


class CachedTokensBody(TypedDict):
    """Part of the input tokens."""

    cached_tokens: Annotated[int, Field(ge=0, le=0, description="always 0")]


class ReasoningTokensBody(TypedDict):
    """Part of the output tokens."""

    reasoning_tokens: Annotated[int, Field(ge=0, le=0, description="always 0")]


class BatchUsageBody(TypedDict):
    """Tokens, of all lines that have an answer."""

    input_tokens: Annotated[int, Field(ge=0, description="of the prompts")]
    input_tokens_details: Annotated[CachedTokensBody, Field(description="part of them")]
    output_tokens: Annotated[int, Field(ge=0, description="generated tokens")]
    output_tokens_details: Annotated[ReasoningTokensBody, Field(description="part of them")]
    total_tokens: Annotated[int, Field(ge=0, description="the sum of both")]


class BatchBody(TypedDict):
    """A batch."""

    id: Annotated[str, Field(description="its id")]
    object: Annotated[Literal["batch"], Field(description="always `batch`")]
    endpoint: Annotated[str, Field(description="the route of its lines")]
    model: Annotated[str | None, Field(description="the model of its first line; null until it is validated")]
    errors: Annotated[BatchErrorsBody | None, Field(description="why it failed; null otherwise")]
    input_file_id: Annotated[str, Field(description="the file with its requests")]
    completion_window: Annotated[str, Field(description="how long it may take", examples=["24h"])]
    status: Annotated[BatchStatus, Field(description="where it stands")]
    output_file_id: Annotated[
        str | None, Field(description="requests that were done; can be read while the batch runs")
    ]
    error_file_id: Annotated[
        str | None, Field(description="requests that were not done; can be read while the batch runs")
    ]
    created_at: UnixTime
    expires_at: Annotated[int, Field(ge=0, description="Unix time at which its window is over, in seconds")]
    in_progress_at: OptionalTime
    finalizing_at: OptionalTime
    completed_at: OptionalTime
    failed_at: OptionalTime
    expired_at: OptionalTime
    cancelling_at: OptionalTime
    cancelled_at: OptionalTime
    request_counts: Annotated[RequestCountsBody, Field(description="how many lines are done")]
    usage: Annotated[BatchUsageBody, Field(description="how many tokens its answers took")]
    metadata: Annotated[dict[str, str], Field(description="as given in the request")]


class BatchListBody(TypedDict):
    """A page of batches."""

    object: Annotated[Literal["list"], Field(description="always `list`")]
    data: Annotated[list[BatchBody], Field(description="the batches, newest first")]
    has_more: Annotated[bool, Field(description="whether there are more")]
    first_id: Annotated[str | None, Field(description="id of the first one")]
    last_id: Annotated[str | None, Field(description="id of the last one: `after` of the next page")]


def _hours(window: Any) -> Any:
    found = re.fullmatch(r"([1-9]\d{0,2})h", window) if isinstance(window, str) else None
    if not found or int(found[1]) > MAX_HOURS:
        raise ValueError(f"must be a whole number of hours from 1h to {MAX_HOURS}h")
    return int(found[1])


class BatchParameters(BaseModel):
    """The body that makes a batch."""

    model_config = STRICT

    input_file_id: str = Field(min_length=1, description="a file with the purpose `batch`")
    endpoint: Literal["/v1/completions", "/v1/chat/completions", "/v1/responses"] = Field(
        description="the route of all of its lines"
    )
    completion_window: Annotated[int, BeforeValidator(_hours, json_schema_input_type=str)] = Field(
        description="`24h`, or another whole number of hours up to `168h`", examples=["24h"]
    )
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] = Field(
        default_factory=dict, description="comes back with the batch"
    )
    output_expires_after: ExpiresAfter | None = Field(
        None, description="how long its files are kept; by default as long as an ended job, from its end on"
    )

    _nulls = model_validator(mode="before")(without_nulls)


def file_body(file: FileRecord) -> FileBody:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": "batch" if file.purpose == "batch" else "batch_output",
        "status": "uploaded" if file.is_open else "processed",
        "status_details": None,
    }


def batch_body(batch: Batch) -> BatchBody:
    def at(status: BatchStatus) -> int | None:
        return int(batch.times[status]) if status in batch.times else None

    errors: BatchErrorsBody | None = None
    if batch.errors:
        errors = {"object": "list", "data": cast("list[BatchErrorBody]", batch.errors)}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        "in_progress_at": at(BatchStatus.IN_PROGRESS),
        "finalizing_at": at(BatchStatus.FINALIZING),
        "completed_at": at(BatchStatus.COMPLETED),
        "failed_at": at(BatchStatus.FAILED),
        "expired_at": at(BatchStatus.EXPIRED),
        "cancelling_at": at(BatchStatus.CANCELLING),
        "cancelled_at": at(BatchStatus.CANCELLED),
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": {
            "input_tokens": batch.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": batch.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": batch.prompt_tokens + batch.completion_tokens,
        },
        "metadata": batch.metadata,
    }
