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
from tasks.request import JobRequest
from tasks.scripts import Argument, Ring, Scripts, as_offers
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
    token: str
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
class Finish:
    """completion_tokens: how many tokens the job's choices have; None where that is not known."""

    status: Status
    error: JobError | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """One job's part of a flush: entries that follow the first `base` ones of its log, then perhaps its end.

    Without entries and finish it renews the lease.
    """

    job_id: str
    token: str
    base: int
    prompt_tokens: int
    entries: Sequence[TokenEntry] = ()
    finish: Finish | None = None


class Word(StrEnum):
    """flush.lua's answer for one job."""

    OK = "ok"
    CANCEL = "cancel"
    TIMEOUT = "timeout"
    ENDED = "ended"
    FENCED = "fenced"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True)
class Written:
    word: Word
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
    version: int = keys.RECORD_VERSION
    """The newest version of a record that it understands."""

    @property
    def pool(self) -> str:
        return keys.pool(self.model, self.engine)

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

    def __init__(self, redis: Redis, settings: Settings, ring: Ring) -> None:
        self._scripts = Scripts(redis, settings)
        self._ring = ring

    def claim(
        self, job_id: str, token: str, worker: str, pool: str, free_slots: int, held: int
    ) -> Claim | Refusal:
        """Take a job that is on offer to the worker, which is of the pool, under a fresh `token`.

        held: jobs that the worker has already. Raises UnreadableRecordError where it has the job, but cannot
        read its request.
        """
        word, *answer = self._scripts.call("claim", job_id, token, worker, pool, free_slots, held)
        if word != "claimed":
            return Refusal(word)
        body, is_alone, is_seed_drawn, started_at, log = answer
        try:
            request = JobRequest.model_validate_json(body)
        except ValueError as error:
            raise UnreadableRecordError(f"the job's request cannot be read: {error}") from error
        return Claim(job_id, token, request, bool(is_alone), log, bool(is_seed_drawn), float(started_at))

    def take_back(self, claim: Claim, worker: str, pool: str) -> bool:
        """Make a claim again that Redis has forgotten; False where the job has moved on, ended or is gone."""
        number = sum(entry.startswith(STATUS_MARK) for entry in claim.log)
        job_id, token = claim.job_id, claim.token
        return bool(self._scripts.call("take_back", job_id, token, worker, pool, number, *claim.log))

    def flush(self, writes: Sequence[Write]) -> list[Written]:
        """Write for the whole batch; the answers are in the order of the writes."""
        written: list[Written] = []
        for start in range(0, len(writes), keys.MAX_JOBS_PER_CALL):
            part = writes[start : start + keys.MAX_JOBS_PER_CALL]
            offers, *answers = self._scripts.call("flush", *(a for w in part for a in _arguments(w)))
            written += [Written(Word(word), length) for word, length in answers]
            self._ring(as_offers(offers))
        return written

    def release(self, held: Sequence[tuple[str, str]], reason: str) -> int:
        """Give (job id, token) pairs back to the front of the line; how many were still held."""
        if not held:
            return 0
        released, offers = self._scripts.call("release", reason, *(part for pair in held for part in pair))
        self._ring(as_offers(offers))
        return int(released)

    def heartbeat(self, worker: WorkerInfo) -> None:
        """Say for one lease's time that the worker lives."""
        arguments: list[Argument] = [worker.id, worker.pool, worker.model, worker.slots, worker.to_json()]
        arguments += [worker.version, worker.max_model_len or "", worker.lifeline]
        offers: Any = self._scripts.call("heartbeat", *arguments)
        self._ring(as_offers(offers))

    def goodbye(self, worker: WorkerInfo) -> None:
        """Leave the books: the worker has stopped."""
        offers: Any = self._scripts.call("goodbye", worker.id, worker.pool, worker.model)
        self._ring(as_offers(offers))


def _arguments(write: Write) -> Iterator[Argument]:
    yield from (write.job_id, write.token, write.base, write.prompt_tokens, len(write.entries))
    yield from (entry.encode() for entry in write.entries)
    finish = write.finish
    if finish is None:
        yield from ("", "", "", "")
        return
    yield finish.status
    yield from (finish.error.code, finish.error.message) if finish.error else ("", "")
    yield "" if finish.completion_tokens is None else finish.completion_tokens
