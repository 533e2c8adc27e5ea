"""The job as clients see it, and its parts. Times are seconds since the epoch by Redis' clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, overload

from tasks.output_parts import Part
from tasks.reasoning_marks import ReasoningMarks

if TYPE_CHECKING:
    from tasks.answers import AttemptBody, ChoiceBody, JobFields, JobSummaryBody, MetricsBody, TokenLogprobs

SUMMARY_CHARACTERS = 200
"""How many characters of a job's prompt lists show."""


class Status(StrEnum):
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TERMINAL_STATUSES = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    ERROR = "error"


Origin = Mapping[str, Any]
"""What made a job, if it was not the native API: `api`, and what that API needs to show the job. JSON."""

PREEMPTED = "preempted"
"""The reason of an attempt of a job of priority `low` that gave its slots to a job of higher priority."""


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job did not complete. `code` is one of the contract's."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker's run at a job. `reason` says why it ended without ending the job."""

    number: int
    worker: str
    started_at: float
    ended_at: float | None = None
    reason: str | None = None


@dataclass(slots=True)
class Choice:
    """One of a job's n outputs, up to the end of the log."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """One for each token, if the client asked for them."""
    parts: list[Part] | None = None
    """What the worker divided the text into; None if it is all of the answer, or the worker divides none."""
    in_reasoning: list[bool] = field(default_factory=list)
    """Whether the worker found a token in the reasoning, for each token with logprobs."""

    def to_dict(self, *, with_logprobs: bool) -> ChoiceBody:
        body: ChoiceBody = {"index": self.index, "text": self.text, "finish_reason": self.finish_reason}
        if with_logprobs:
            body["logprobs"] = self.logprobs
        return body


@dataclass(frozen=True, slots=True)
class Job:
    """A job's record, and the output in its log."""

    id: str
    owner: str
    model: str
    status: Status
    request: dict[str, Any]
    created_at: float
    started_at: float | None
    first_token_at: float | None
    ended_at: float | None
    attempts: list[Attempt]
    output: list[Choice]
    prompt_tokens: int
    error: JobError | None
    read_at: float
    """When Redis was read. Durations of a running job are measured up to this time."""
    is_seed_drawn: bool = False
    """The request's seed was drawn because the client gave none."""
    is_request_truncated: bool = False
    """The request was cut short after the job had failed because of its content, see `tasks.reaper`."""
    version: int = 1
    """The version of its record, which a worker must understand to run it."""
    is_waiting: bool = False
    """It waits for a worker: before its first attempt, or between two attempts."""
    origin: Origin | None = None
    reasoning_marks: ReasoningMarks | None = None
    """They divide its outputs into reasoning and answer; None if nothing does, or the worker itself."""
    is_divided: bool = False
    """Its worker divides its outputs, and logs the parts."""
    keep_seconds: float | None = None
    """It is removed this long after its end; None for the server's own retention."""
    queue_position: int | None = None
    eta_seconds: float | None = None
    reason: str | None = None

    @property
    def is_ended(self) -> bool:
        return self.status in TERMINAL_STATUSES

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.token_ids) for choice in self.output)

    @property
    def run_seconds(self) -> float | None:
        if self.started_at is None:
            return None
        return (self.ended_at or self.read_at) - self.started_at

    def to_dict(self) -> JobFields:
        """Returns the contract's job object, without `urls`, which only the web server knows."""
        with_logprobs = self.request.get("logprobs") is not None
        return {
            "id": self.id,
            "object": "job",
            "status": self.status,
            "model": self.model,
            "created_at": iso8601(self.created_at),
            "started_at": iso8601(self.started_at),
            "ended_at": iso8601(self.ended_at),
            "attempt": len(self.attempts),
            "attempts": [_attempt_dict(attempt) for attempt in self.attempts],
            "queue_position": self.queue_position,
            "eta_seconds": self.eta_seconds,
            "reason": self.reason,
            "request": self.request,
            "request_truncated": self.is_request_truncated,
            "output": [choice.to_dict(with_logprobs=with_logprobs) for choice in self.output],
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "total_tokens": self.prompt_tokens + self.completion_tokens,
            },
            "error": {"code": self.error.code, "message": self.error.message} if self.error else None,
            "metrics": self._metrics(),
            "metadata": self.request["metadata"],
        }

    def _metrics(self) -> MetricsBody:
        run_seconds = self.run_seconds
        queue_seconds = first_token_seconds = None
        if self.started_at is not None:
            queue_seconds = self.started_at - self.created_at
        if self.first_token_at is not None:
            first_token_seconds = self.first_token_at - self.created_at
        return {
            "queue_seconds": _rounded(queue_seconds),
            "first_token_seconds": _rounded(first_token_seconds),
            "run_seconds": _rounded(run_seconds),
            "tokens_per_second": round(self.completion_tokens / run_seconds, 1) if run_seconds else None,
        }


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job as lists show it. prompt: the first SUMMARY_CHARACTERS of its prompt, or of its messages."""

    id: str
    status: Status
    model: str
    created_at: float
    queue_position: int | None
    prompt: str

    def to_dict(self) -> JobSummaryBody:
        """Returns the contract's summary."""
        return {
            "id": self.id,
            "status": self.status,
            "model": self.model,
            "created_at": iso8601(self.created_at),
            "queue_position": self.queue_position,
            "prompt": self.prompt,
        }


@overload
def iso8601(seconds: float) -> str: ...
@overload
def iso8601(seconds: float | None) -> str | None: ...
def iso8601(seconds: float | None) -> str | None:
    """Returns seconds since the epoch in the contract's form: UTC, milliseconds, `Z`."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _attempt_dict(attempt: Attempt) -> AttemptBody:
    return {
        "number": attempt.number,
        "worker": attempt.worker,
        "started_at": iso8601(attempt.started_at),
        "ended_at": iso8601(attempt.ended_at),
        "reason": attempt.reason,
    }
