"""A batch as its owner sees it, and what its lines become. Times are seconds since the epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tasks.submission import Draft


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class BatchError:
    """What is wrong with a batch, or with a line (counted from 1) of its input file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"code": self.code, "line": self.line, "message": self.message, "param": self.param}


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch.

    times: status -> when it began, for each status that the batch had after `validating`.
    offset, next_line: bytes and lines of the input file that were taken.
    outcome: how it ends or has ended; None while it takes jobs.
    """

    id: str
    owner: str
    status: BatchStatus
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: dict[str, str]
    created_at: float
    expires_at: float
    times: Mapping[str, float]
    outcome: str | None
    output_file_id: str | None
    error_file_id: str | None
    errors: list[dict[str, Any]]
    model: str | None
    total: int
    completed: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    offset: int
    next_line: int
    input_bytes: int

    @property
    def has_taken_all(self) -> bool:
        return self.offset >= self.input_bytes


@dataclass(frozen=True, slots=True)
class OpenLine:
    """A line whose answer is not written yet. is_ended: its jobs have ended, or are gone."""

    number: int
    custom_id: str
    job_ids: list[str]
    is_ended: bool


@dataclass(frozen=True, slots=True)
class Span:
    """Successive lines of an input file: from a byte on, to the byte and the line after them."""

    start: int
    end: int
    end_line: int


@dataclass(frozen=True, slots=True)
class FedLine:
    number: int
    custom_id: str
    drafts: list[Draft]


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """text: a line of the output file or, with `is_error`, of the error file, without its line end."""

    line: OpenLine
    text: str
    is_error: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """What a web process is to do. due_in: seconds until the next batch is due; None if there is none."""

    batch_ids: list[str]
    lost: list[str]
    on_disk: list[str]
    due_in: float | None


def batch_from_record(fields: Mapping[str, str]) -> Batch | None:
    """Returns a batch, made of the fields of its hash; None if there are none."""
    if not fields:
        return None
    return Batch(
        id=fields["id"],
        owner=fields["owner"],
        status=BatchStatus(fields["status"]),
        endpoint=fields["endpoint"],
        input_file_id=fields["input_file_id"],
        completion_window=fields["completion_window"],
        metadata=json.loads(fields["metadata"]),
        created_at=float(fields["created_at"]),
        expires_at=float(fields["expires_at"]),
        times={status: float(fields[f"{status}_at"]) for status in BatchStatus if f"{status}_at" in fields},
        outcome=fields.get("outcome"),
        output_file_id=fields.get("output_file_id"),
        error_file_id=fields.get("error_file_id"),
        errors=json.loads(fields.get("errors", "[]")),
        model=fields.get("model"),
        total=int(fields.get("total", 0)),
        completed=int(fields.get("completed", 0)),
        failed=int(fields.get("failed", 0)),
        prompt_tokens=int(fields.get("prompt_tokens", 0)),
        completion_tokens=int(fields.get("completion_tokens", 0)),
        offset=int(fields["offset"]),
        next_line=int(fields["next_line"]),
        input_bytes=int(fields["input_bytes"]),
    )
