"""The jobs as a worker sees them: claim, flush, release, and the worker's own heartbeat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from redis import Redis

from tasks import keys
from tasks.answers import WorkerBody
from tasks.errors import UnreadableRecordError
from tasks.job import JobError, Status
from tasks.log import STATUS_MARK, TOKEN_MARK, Entry, TokenEntry, parse_entry
from tasks.request import RECORD_VERSION, JobRequest
from tasks.scripts import Argument, Scripts, SendOffers, as_offers
from tasks.settings import Settings


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker needs to run a job, or to go on with it.

    log: all entries so far, encoded, the status entry of this claim included.
    is_alone: it may be what killed its workers, no other job is to be claimed beside it.
    is_seed_drawn: the client gave no seed, the request's was drawn when the job was submitted.
    started_at: Unix time of the job's first attempt.
    """

    job_id: str
    lease_token: str
    request: JobRequest
    is_alone: bool
    log: Sequence[str]
    is_seed_drawn: bool = False
    started_at: float = 0.0

    @property
    def entries(self) -> list[Entry]:
        """The log, decoded. Raises UnreadableRecordError."""
        try:
            return [parse_entry(entry) for entry in self.log]
        except (ValueError, TypeError, LookupError) as error:
            raise UnreadableRecordError(f"the job's log cannot be read: {error}") from error

    @property
    def has_tokens(self) -> bool:
        """Whether earlier attempts wrote some."""
        return any(entry.startswith(TOKEN_MARK) for entry in self.log)


class Refusal(StrEnum):
    """Why a job was not claimed."""

    GONE = "gone"
    """It is not on offer (any more): the message was late or a copy."""

    BUSY = "busy"
    """It takes more slots than are free, or has to run alone."""

    SETTLING = "settling"
    """Redis has just come back: those who hold jobs that it may have forgotten are to write first."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """completion_tokens: how many tokens the job's choices have; None where that is not known."""

    status: Status
    error: JobError | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """One job's part of a flush: entries that follow the first `base` ones of its log, then perhaps its end.

    Without entries and outcome it renews the lease.
    """

    job_id: str
    lease_token: str
    base: int
    prompt_tokens: int
    entries: Sequence[TokenEntry] = ()
    outcome: Outcome | None = None


class WriteStatus(StrEnum):
    """flush.lua's answer for one job."""

    OK = "ok"
    CANCEL = "cancel"
    TIMEOUT = "timeout"
    ENDED = "ended"
    FENCED = "fenced"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True)
class WriteAnswer:
    status: WriteStatus
    log_length: int


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker announces. `slots` counts for dispatch: 0 while it drains."""

    id: str
    model: str
    engine: str
    slots: int
    running: int
    tokens_per_second: float
    max_model_len: int | None = None
    """Prompt and output tokens of one sequence together; None: not said."""
    lifeline: str = ""
    """The channel that this process alone subscribes to, see `worker.lifeline`; empty for none."""
    version: int = RECORD_VERSION
    """The newest version of a record that it understands."""

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


class Leases:
    """A worker's transitions. Every method may raise redis.exceptions.RedisError and may be repeated."""

    def __init__(self, redis: Redis, settings: Settings, send_offers: SendOffers) -> None:
        self._scripts = Scripts(redis, settings)
        self._send_offers = send_offers

    def claim(
        self, job_id: str, lease_token: str, worker: str, engine_pool: str, free_slots: int, held: int
    ) -> Claim | Refusal:
        """Take a job that is on offer to a worker of this engine pool, under a fresh lease token.

        held: jobs that the worker has already. Raises UnreadableRecordError where it has the job, but cannot
        read its request.
        """
        status, *answer = self._scripts.call(
            "claim", job_id, lease_token, worker, engine_pool, free_slots, held
        )
        if status != "claimed":
            return Refusal(status)
        body, is_alone, is_seed_drawn, started_at, log = answer
        try:
            request = JobRequest.model_validate_json(body)
        except ValueError as error:
            raise UnreadableRecordError(f"the job's request cannot be read: {error}") from error
        return Claim(
            job_id, lease_token, request, bool(is_alone), log, bool(is_seed_drawn), float(started_at)
        )

    def take_back(self, claim: Claim, worker: str, engine_pool: str) -> bool:
        """Make a claim again that Redis has forgotten; False where the job has moved on, ended or is gone."""
        number = sum(entry.startswith(STATUS_MARK) for entry in claim.log)
        job_id, lease_token = claim.job_id, claim.lease_token
        return bool(
            self._scripts.call("take_back", job_id, lease_token, worker, engine_pool, number, *claim.log)
        )

    def flush(self, writes: Sequence[Write]) -> list[WriteAnswer]:
        """Write for the whole batch; the answers are in the order of the writes."""
        written: list[WriteAnswer] = []
        for start in range(0, len(writes), keys.MAX_JOBS_PER_CALL):
            part = writes[start : start + keys.MAX_JOBS_PER_CALL]
            offers, *answers = self._scripts.call("flush", *(a for w in part for a in _arguments(w)))
            written += [WriteAnswer(WriteStatus(status), length) for status, length in answers]
            self._send_offers(as_offers(offers))
        return written

    def release(self, held: Sequence[tuple[str, str]], reason: str) -> int:
        """Give (job id, lease token) pairs back to the front of the line; how many were still held."""
        if not held:
            return 0
        released, offers = self._scripts.call("release", reason, *(part for pair in held for part in pair))
        self._send_offers(as_offers(offers))
        return int(released)

    def heartbeat(self, worker: WorkerInfo) -> None:
        """Say for one lease's time that the worker lives."""
        arguments: list[Argument] = [
            worker.id,
            worker.engine_pool,
            worker.model,
            worker.slots,
            worker.to_json(),
        ]
        arguments += [worker.version, worker.max_model_len or "", worker.lifeline]
        offers: Any = self._scripts.call("heartbeat", *arguments)
        self._send_offers(as_offers(offers))

    def deregister(self, worker: WorkerInfo) -> None:
        """Leave the books: the worker has stopped."""
        offers: Any = self._scripts.call("deregister", worker.id, worker.engine_pool, worker.model)
        self._send_offers(as_offers(offers))


def _arguments(write: Write) -> Iterator[Argument]:
    yield from (write.job_id, write.lease_token, write.base, write.prompt_tokens, len(write.entries))
    yield from (entry.encode() for entry in write.entries)
    outcome = write.outcome
    if outcome is None:
        yield from ("", "", "", "")
        return
    yield outcome.status
    yield from (outcome.error.code, outcome.error.message) if outcome.error else ("", "")
    yield "" if outcome.completion_tokens is None else outcome.completion_tokens
