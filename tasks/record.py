"""Makes a `Job` from its record and its log in Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.job import SUMMARY_CHARACTERS, Attempt, Choice, FinishReason, Job, JobError, Status
from tasks.log import choices, parse_entry, unpack
from tasks.reasoning_marks import ReasoningMarks

PACKED_LOG = "packed_log"
"""The field of the record with the log of an ended job, see `tasks.log.pack`."""


def job_from_record(record: Mapping[str, str], log: Sequence[str], read_at: float) -> Job:
    """Returns the job.

    record: the hash's fields, as the scripts wrote them. log: the list, empty once it is packed. read_at:
    Redis' time when they were read.
    """
    status = Status(record["status"])
    error = JobError(record["error_code"], record["error_message"]) if "error_code" in record else None
    entries = unpack(record[PACKED_LOG]) if PACKED_LOG in record else log
    output = choices((parse_entry(entry) for entry in entries), int(record["n"]))
    _close(output, status, error)
    return Job(
        id=record["id"],
        owner=record["owner"],
        model=record["model"],
        status=status,
        request=json.loads(record["request"]),
        created_at=float(record["created_at"]),
        started_at=_optional_seconds(record, "started_at"),
        first_token_at=_optional_seconds(record, "first_token_at"),
        ended_at=_optional_seconds(record, "ended_at"),
        attempts=[Attempt(**attempt) for attempt in json.loads(record["attempts"])],
        output=output,
        prompt_tokens=int(record.get("prompt_tokens", 0)),
        error=error,
        read_at=read_at,
        is_seed_drawn="seed_drawn" in record,
        is_request_truncated="request_truncated" in record,
        version=int(record["version"]),
        is_waiting=record["place"] in ("line", "offered"),
        origin=json.loads(record["origin"]) if "origin" in record else None,
        reasoning_marks=ReasoningMarks.from_json(record.get("reasoning_marks")),
        is_divided="is_divided" in record,
        keep_seconds=_optional_seconds(record, "keep_seconds"),
    )


def prompt_start(request: Mapping[str, Any]) -> str:
    """Returns the first SUMMARY_CHARACTERS of a request's prompt, or of its messages, one line for each."""
    if request.get("prompt") is not None:
        return str(request["prompt"])[:SUMMARY_CHARACTERS]
    if request.get("prompt_token_ids") is not None:
        return " ".join(map(str, request["prompt_token_ids"][:SUMMARY_CHARACTERS]))[:SUMMARY_CHARACTERS]
    texts = "\n".join(_message_text(message["content"]) for message in request["messages"])
    return texts[:SUMMARY_CHARACTERS]


def _message_text(content: str | Sequence[Mapping[str, str]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _close(output: Sequence[Choice], status: Status, error: JobError | None) -> None:
    """Sets the finish reason of the choices that were cut off when their job ended."""
    reasons = {Status.CANCELLED: FinishReason.CANCELLED, Status.FAILED: FinishReason.ERROR}
    reason = FinishReason.TIMEOUT if error and error.code == "timeout" else reasons.get(status)
    for choice in output:
        choice.finish_reason = choice.finish_reason or reason


def _optional_seconds(record: Mapping[str, str], field: str) -> float | None:
    return float(record[field]) if field in record else None
