"""The jobs as a worker sees them: claim, flush and release them, and announce the worker itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tasks import keys
from tasks.answers import WorkerBody
from tasks.errors import UnreadableRecordError
from tasks.job import JobError, Status
from tasks.log import STATUS_MARK, TOKEN_MARK, Entry, parse_entry
from tasks.reasoning_marks import ReasoningMarks
from tasks.request import RECORD_VERSION, JobRequest
from tasks.script_source import EncodedJson, encode_json
from tasks.scripts import Scripts


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker needs to run a job, or to continue it.

    log: all entries so far, encoded, including the status entry of this claim.
    is_alone: the job may have killed its workers, so the worker must not claim another job beside it.
    is_seed_drawn: the client gave no seed, so one was drawn when the job was submitted.
    started_at: Unix time of the job's first attempt.
    reasoning_marks: see `Job`. They are part of the output's text, even if they are special tokens.
    is_divided: see `Job`. Special tokens are part of the output's text, so that its parts can be found.
    """

    job_id: str
    lease_token: str
    request: JobRequest
    is_alone: bool
    log: Sequence[str]
    is_seed_drawn: bool = False
    started_at: float = 0.0
    reasoning_marks: ReasoningMarks | None = None
    is_divided: bool = False

    @property
    def entries(self) -> list[Entry]:
        """Returns the log, decoded. Raises UnreadableRecordError."""
        try:
            return [parse_entry(entry) for entry in self.log]
        except (ValueError, TypeError, LookupError) as error:
            raise UnreadableRecordError(f"the job's log cannot be read: {error}") from error

    @property
    def has_tokens(self) -> bool:
        """Returns whether earlier attempts wrote tokens."""
        return any(entry.startswith(TOKEN_MARK) for entry in self.log)


class Refusal(StrEnum):
    """Why a job was not claimed."""

    GONE = "gone"
    """The job is not on offer to this worker, because the message was late or a copy."""

    BUSY = "busy"
    """The job takes more slots than are free, or has to run alone."""

    SETTLING = "settling"
    """Redis has just come back. Workers whose claims it may have forgotten must be able to write first."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ends. completion_tokens: how many tokens its choices have; None if that is not known."""

    status: Status
    error: JobError | None = None
    completion_tokens: int | None = None

    def to_fields(self) -> dict[str, Any]:
        """Returns what flush.lua takes of it."""
        fields: dict[str, Any] = {"status": self.status}
        if self.error is not None:
            fields |= {"code": self.error.code, "message": self.error.message}
        if self.completion_tokens is not None:
            fields["tokens"] = self.completion_tokens
        return fields


@dataclass(slots=True)
class Write:
    """One job's part of a flush: encoded entries that follow the first `base` entries of its log, and perhaps
    its outcome.

    prompt_tokens: for the record; None where it has them already. Not frozen, because frozen dataclasses take
    three times as long to make, and a flush makes one for each job.
    """

    job_id: str
    lease_token: str
    base: int
    entries: Sequence[str] = ()
    prompt_tokens: int | None = None
    outcome: Outcome | None = None


class WriteStatus(StrEnum):
    """What flush.lua answers for a job that does not just go on; its head explains each status."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    PREEMPT = "preempt"
    ENDED = "ended"
    FENCED = "fenced"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True)
class WriteAnswer:
    status: WriteStatus
    log_length: int


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker announces. slots: those that dispatch may fill, 0 while the worker drains."""

    id: str
    model: str
    engine: str
    slots: int
    running: int
    tokens_per_second: float
    max_model_len: int | None = None
    """The most tokens that prompt and output of a sequence have together; None if the engine does not say."""
    lifeline: str = ""
    """The channel that only this process subscribes to, see `worker.lifeline`; empty for none."""
    version: int = RECORD_VERSION
    """The newest version of a record that it understands."""
    reasoning_marks: ReasoningMarks | None = None
    """Those of its model; None if the model writes no reasoning, or if there is no model."""
    divides_outputs: bool = False
    """Whether it divides outputs itself; then it announces no marks."""

    @property
    def engine_pool(self) -> str:
        return keys.engine_pool(self.model, self.engine)

    def to_json(self) -> str:
        body: WorkerBody = {
            "id": self.id,
            "model": self.model,
            "engine": self.engine,
            "slots": self.slots,
            "running": self.running,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "max_model_len": self.max_model_len,
        }
        return json.dumps(body)


def _details(at: int, write: Write) -> dict[str, Any]:
    """Returns what only few writes have, in the form that flush.lua takes."""
    details: dict[str, Any] = {"at": at}
    if write.prompt_tokens is not None:
        details["prompt_tokens"] = write.prompt_tokens
    if write.outcome is not None:
        details["outcome"] = write.outcome.to_fields()
    return details


class Leases:
    """A worker's transitions. Every method may raise redis.exceptions.RedisError and may be repeated."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._rosters: dict[int, tuple[list[str], EncodedJson]] = {}
        """The roster of each call of a flush, by the index of its first job, and how it is encoded."""

    def claim(
        self, job_id: str, lease_token: str, worker: str, engine_pool: str, free_slots: int, held: int
    ) -> Claim | Refusal:
        """Claims a job that is on offer to a worker of this engine pool, under a fresh lease token.

        held: how many jobs the worker has already. Raises UnreadableRecordError if the worker has claimed the
        job, but cannot read its request.
        """
        answer = self._scripts.call(
            "claim",
            id=job_id,
            lease_token=lease_token,
            worker=worker,
            engine_pool=engine_pool,
            free_slots=free_slots,
            held_jobs=held,
        )
        if answer.status != "claimed":
            return Refusal(answer.status)
        try:
            request = JobRequest.model_validate_json(answer["request"])
        except ValueError as error:
            raise UnreadableRecordError(f"the job's request cannot be read: {error}") from error
        return Claim(
            job_id,
            lease_token,
            request,
            bool(answer["is_alone"]),
            answer["log"],
            bool(answer["is_seed_drawn"]),
            float(answer["started_at"]),
            ReasoningMarks.from_json(answer["reasoning_marks"]),
            bool(answer["is_divided"]),
        )

    def take_back(self, claim: Claim, worker: str, engine_pool: str) -> bool:
        """Makes a claim again that Redis has forgotten. False if the job has moved on, ended or is gone."""
        answer = self._scripts.call(
            "take_back",
            id=claim.job_id,
            lease_token=claim.lease_token,
            worker=worker,
            engine_pool=engine_pool,
            number=sum(entry.startswith(STATUS_MARK) for entry in claim.log),
            claimed_log=claim.log,
        )
        return answer.status == "taken_back"

    def flush(self, writes: Sequence[Write], *, renew: bool) -> dict[int, WriteAnswer]:
        """Writes for the whole batch.

        renew: whether to give every job a whole lease again. Without it, its lease runs on as it is.

        Returns answers by the index of their write. A write without an answer is in the log, and its job goes
        on: nearly all are like that.
        """
        answers: dict[int, WriteAnswer] = {}
        for start in range(0, len(writes), keys.MAX_JOBS_PER_FLUSH):
            part = writes[start : start + keys.MAX_JOBS_PER_FLUSH]
            found = self._scripts.call(
                "flush",
                renew=renew,
                roster=self._encoded_roster(start, part),
                spans=[number for one in part for number in (one.base, len(one.entries))],
                details=[
                    _details(at, one)
                    for at, one in enumerate(part, 1)
                    if one.prompt_tokens is not None or one.outcome is not None
                ],
                entries=[entry for one in part for entry in one.entries],
            )["exceptions"]
            for at, status, length in found:
                answers[start + at - 1] = WriteAnswer(WriteStatus(status), length)
        return answers

    def _encoded_roster(self, start: int, part: Sequence[Write]) -> EncodedJson:
        """Returns the jobs and lease tokens. They are encoded once while a batch stays together."""
        roster = [name for one in part for name in (one.job_id, one.lease_token)]
        known, encoded = self._rosters.get(start, ([], None))
        if encoded is None or roster != known:
            encoded = encode_json(roster)
            self._rosters[start] = roster, encoded
        return encoded

    def release(self, held: Sequence[tuple[str, str]], reason: str) -> int:
        """Puts jobs, as (job id, lease token), back in line, with the tags that they had.

        reason: of the end of their attempts, as clients read it. `PREEMPTED` also counts as a preemption.

        Returns how many of them were still held.
        """
        if not held:
            return 0
        jobs = [{"id": job_id, "lease_token": lease_token} for job_id, lease_token in held]
        return int(self._scripts.call("release", reason=reason, jobs=jobs)["released"])

    def heartbeat(self, worker: WorkerInfo) -> None:
        """Announces for one lease's time that the worker lives."""
        self._scripts.call(
            "heartbeat",
            worker=worker.id,
            engine_pool=worker.engine_pool,
            model=worker.model,
            slots=worker.slots,
            description=worker.to_json(),
            version=worker.version,
            max_model_len=worker.max_model_len or "",
            lifeline=worker.lifeline,
            reasoning_marks=worker.reasoning_marks.to_json() if worker.reasoning_marks else "",
            divides_outputs=worker.divides_outputs,
        )

    def deregister(self, worker: WorkerInfo) -> None:
        """Removes the worker, which has stopped."""
        self._scripts.call("deregister", worker=worker.id, engine_pool=worker.engine_pool, model=worker.model)
