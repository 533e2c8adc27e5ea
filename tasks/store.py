"""The jobs as clients' side sees them: submit, read, list, cancel, retry, delete.

What workers do with them is `tasks.leases`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from tasks import keys
from tasks.answers import WorkerBody
from tasks.connection import is_away, may_have_been_sent, noted_failures
from tasks.errors import (
    ConflictError,
    FieldError,
    IdempotencyConflictError,
    InvalidRequestError,
    JobNotFoundError,
    OutcomeUnknownError,
    OverShareError,
    QueueFullError,
    UnavailableError,
)
from tasks.job import TERMINAL_STATUSES, Choice, Job, JobSummary, Status
from tasks.log import Entry, parse_entry, unpack
from tasks.record import job_from_record, prompt_start
from tasks.request import JobRequest, Priority, version_of
from tasks.scripts import Argument, Scripts, SendOffers, as_offers
from tasks.settings import Settings

PRIORITY_BONUS_TOKENS = {Priority.HIGH: 16_384, Priority.NORMAL: 0, Priority.LOW: -16_384}
"""A head start in fair tags, worth 256 jobs of the default length: enough to pass any queue that a
person sees, bounded so that nobody waits for ever."""


REDIS_RETRY_SECONDS = 2
"""About as long as a Redis takes to restart or to fail over."""

MEMORY_RETRY_SECONDS = 30
"""Memory comes back as ended jobs pass their retention: not soon."""

SHORT_REQUEST_CHARACTERS = 2_000
"""A request as JSON of at most this length is read whole for a list; of a longer one the start of its prompt
is kept for that, once more."""

MAX_DRAWN_SEED = 2**53
"""JavaScript's numbers are exact up to here: a client shall be able to send a drawn seed back."""


@dataclass(frozen=True, slots=True)
class Submission:
    """job: as it was accepted; None where an Idempotency-Key led back to an earlier one."""

    job_id: str
    job: Job | None

    @property
    def created(self) -> bool:
        return self.job is not None


@dataclass(frozen=True, slots=True)
class IdPage:
    """has_more: whether the owner has jobs after the last of these."""

    ids: list[str]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Page:
    jobs: list[Job]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Model:
    """since: Unix time of its first worker. workers: the live ones, in the contract's form."""

    id: str
    since: float
    workers: Sequence[WorkerBody]


@dataclass(frozen=True, slots=True)
class JobHeader:
    """A job's owner, its status and the length of its log."""

    owner: str
    status: Status
    log_length: int

    def has_nothing_after(self, seq: int) -> bool:
        return self.status in TERMINAL_STATUSES and self.log_length <= seq


@dataclass(frozen=True, slots=True)
class LogPage:
    """Successive entries of a log, and the job's status at that moment: None where there is no such job."""

    status: Status | None
    entry_texts: list[str]
    """As they stand in the log."""

    @property
    def entries(self) -> list[Entry]:
        return [parse_entry(text) for text in self.entry_texts]


class Store:
    """Reads and changes records. Every method may raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis, settings: Settings, send_offers: SendOffers) -> None:
        self.redis = redis
        self._settings = settings
        self._scripts = Scripts(redis, settings)
        self._send_offers = send_offers

    def submit(self, request: JobRequest, owner: str, idempotency_key: str | None = None) -> Submission:
        """Accept a job: when this returns, the job is in Redis and will end.

        Raises InvalidRequestError (a model that nobody ever announced, or not with this engine; n beyond its
        slots), IdempotencyConflictError, QueueFullError, OverShareError, UnavailableError (nothing was
        accepted: Redis cannot be reached, or is nearly full) and OutcomeUnknownError (its answer was lost).
        """
        return self.submit_all([request], owner, idempotency_key)[0]

    def submit_all(
        self, requests: Sequence[JobRequest], owner: str, idempotency_key: str | None = None
    ) -> list[Submission]:
        """Accept all of the jobs or none. They name the same model and engine.

        A key leads back to the jobs of the earlier call, all of them. Raises what `submit` raises.
        """
        accepted = [self._accepted(request) for request in requests]
        body_hash = _hash(accepted)
        return self._submit([_Draft.of(request) for request in accepted], body_hash, owner, idempotency_key)

    def retry(self, job_id: str, owner: str, idempotency_key: str | None = None) -> Submission:
        """A new job with the request of an ended one that did not complete.

        Raises JobNotFoundError, ConflictError and what `submit` raises.
        """
        job = self.get(job_id, owner)
        if not job.is_ended or job.status is Status.COMPLETED:
            raise ConflictError(
                f"the job is {job.status}; only failed, cancelled and expired jobs are retried"
            )
        if job.is_request_truncated:
            code = job.error.code if job.error else job.status
            raise ConflictError(f"the job failed with {code}, so its whole request was not kept")
        draft = _Draft(job.request, job.version, job.is_seed_drawn)
        return self._submit([draft], _hash({"retry": job_id}), owner, idempotency_key)[0]

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """The job now; `owner` None reads anybody's. Raises JobNotFoundError."""
        jobs = [job for part in self.read([job_id]) for job in part]
        if not jobs or (owner is not None and jobs[0].owner != owner):
            raise JobNotFoundError(f"there is no job {job_id}")
        return jobs[0]

    def list_jobs(
        self, owner: str, status: Status | None = None, limit: int = 20, after: str | None = None
    ) -> Page:
        """An owner's jobs, newest first. Raises what `list_ids` raises."""
        page = self.list_ids(owner, status, limit, after)
        return Page([job for part in self.read(page.ids) for job in part], page.has_more)

    def list_ids(
        self, owner: str, status: Status | None = None, limit: int = 20, after: str | None = None
    ) -> IdPage:
        """The ids of an owner's jobs, newest first, of those after the job `after` if given.

        Raises InvalidRequestError where the owner has no job `after`.
        """
        index = keys.owner_jobs_by_status(owner, status) if status else keys.owner_jobs(owner)
        before = "+inf" if after is None else f"({self._creation_score(owner, after)}"
        found = self.redis.zrevrangebyscore(index, before, "-inf", start=0, num=limit + 1)
        ids = cast("list[str]", found)
        return IdPage(ids[:limit], has_more=len(ids) > limit)

    def read(self, job_ids: Sequence[str]) -> Iterator[list[Job]]:
        """Those of the jobs that exist, in the order given.

        They come in parts, of which none holds Redis or this process for long.
        """
        rest = list(job_ids)
        while rest:
            now, *found = self._scripts.call("read", keys.LONG_ANSWER_BYTES, *rest)
            del rest[: len(found)]
            records = [(dict(zip(fields[::2], fields[1::2], strict=True)), log) for fields, log in found]
            jobs = [job_from_record(record, log, float(now)) for record, log in records if record]
            yield self._with_positions(jobs)

    def summaries(self, job_ids: Sequence[str]) -> list[JobSummary]:
        """What lists show of those of the jobs that exist, in the order given."""
        rows: list[Sequence[str]] = []
        while len(rows) < len(job_ids):
            rows += self._scripts.call("summaries", keys.LONG_ANSWER_BYTES, *job_ids[len(rows) :])
        found = [(job_id, row) for job_id, row in zip(job_ids, rows, strict=True) if row[0]]
        positions = self._positions([job_id for job_id, row in found if row[0] == Status.QUEUED])
        return [
            JobSummary(
                job_id,
                Status(status),
                model,
                float(created_at),
                max(positions[job_id][0], 0) if job_id in positions else None,
                start or prompt_start(json.loads(request)),
            )
            for job_id, (status, model, created_at, start, request) in found
        ]

    def cancel(self, job_id: str, owner: str | None = None) -> None:
        """End a waiting job; tell the worker of a running one. Raises JobNotFoundError."""
        found, offers = self._scripts.call("cancel", job_id, owner or "")
        if not found:
            raise JobNotFoundError(f"there is no job {job_id}")
        self._send_offers(as_offers(offers))

    def delete(self, job_id: str, owner: str) -> None:
        """Remove an ended job. Raises JobNotFoundError, and ConflictError while it has not ended."""
        answer = self._scripts.call("delete", job_id, owner)
        if answer == "missing":
            raise JobNotFoundError(f"there is no job {job_id}")
        if answer != "deleted":
            raise ConflictError(f"the job is {answer}; cancel it first")

    def header(self, job_id: str, owner: str | None = None) -> JobHeader:
        """`owner` None reads anybody's. Raises JobNotFoundError."""
        found_owner, status, length, _, _ = self._scripts.call("page", job_id)
        if not found_owner or (owner is not None and found_owner != owner):
            raise JobNotFoundError(f"there is no job {job_id}")
        return JobHeader(found_owner, Status(status), length)

    def read_log(self, job_id: str) -> list[Entry]:
        """The whole log; empty also where there is no such job."""
        return self.read_page(job_id, after=0, limit=None).entries

    def read_page(self, job_id: str, after: int, limit: int | None) -> LogPage:
        """The `limit` entries that follow the first `after` ones, all of them without a limit."""
        end = None if limit is None else after + limit
        last = -1 if end is None else end - 1
        _, status, _, packed, found = self._scripts.call("page", job_id, after, last)
        entries = unpack(packed)[after:end] if packed else found
        return LogPage(Status(status) if status else None, entries)

    def counts(self) -> dict[Status, int]:
        """Jobs by status, statuses without jobs included."""
        found = cast("dict[str, str]", self.redis.hgetall(keys.COUNTS))
        return {status: int(found.get(status, 0)) for status in Status}

    def workers(self) -> list[WorkerBody]:
        """What the live workers announced last, in the contract's form."""
        announced = cast("dict[str, str]", self.redis.hgetall(keys.WORKERS))
        now = self._now()
        live: set[str] = set()
        for model in cast("list[str]", self.redis.hkeys(keys.MODELS_SINCE)):
            for engine_pool in cast("set[str]", self.redis.smembers(keys.engine_pools(model))):
                live.update(cast("list[str]", self.redis.zrangebyscore(keys.alive(engine_pool), now, "+inf")))
        return [json.loads(announced[worker]) for worker in sorted(live & announced.keys())]

    def models(self) -> list[Model]:
        """Every model that a worker ever announced, by name, with the workers that serve it now."""
        since = cast("dict[str, str]", self.redis.hgetall(keys.MODELS_SINCE))
        workers = self.workers()
        return [
            Model(name, float(since[name]), [worker for worker in workers if worker["model"] == name])
            for name in sorted(since)
        ]

    def _accepted(self, request: JobRequest) -> dict[str, Any]:
        model = request.model or self._settings.model
        return request.model_dump(mode="json", exclude_none=True) | {"model": model}

    def _submit(
        self, drafts: Sequence[_Draft], body_hash: str, owner: str, idempotency_key: str | None
    ) -> list[Submission]:
        model, engine = drafts[0].request["model"], drafts[0].request.get("engine")
        is_own = model == self._settings.model and engine in (None, self._settings.engine)
        arguments: list[Argument] = [
            owner,
            keys.queue(model, engine),
            model,
            idempotency_key or "",
            body_hash,
            self._settings.max_queued_jobs,
            int(is_own),
            self._settings.owner_memory_share if self._settings.api_keys else 1,
        ]
        for draft in drafts:
            arguments += draft.arguments()
        status, detail, offers, *created_at = self._call_submit(arguments)
        self._send_offers(as_offers(offers))
        match status:
            case "created":
                accepted = zip(detail.split(","), drafts, strict=True)
                return [
                    Submission(job_id, draft.job(job_id, owner, float(created_at[0])))
                    for job_id, draft in accepted
                ]
            case "exists":
                return [Submission(job_id, None) for job_id in detail.split(",")]
            case "conflict":
                raise IdempotencyConflictError
            case "full":
                raise QueueFullError(
                    f"at most {self._settings.max_queued_jobs} jobs may wait", retry_after=int(detail)
                )
            case "over_share":
                raise OverShareError(retry_after=MEMORY_RETRY_SECONDS)
            case "nearly_full":
                raise UnavailableError("Redis is nearly full", retry_after=MEMORY_RETRY_SECONDS)
            case "unknown" if engine is not None:
                message = f"no worker ever announced '{model}' with this engine"
                raise InvalidRequestError([FieldError("engine", message)])
            case "unknown":
                raise InvalidRequestError([FieldError("model", f"no worker ever announced '{model}'")])
            case "too_wide":
                message = f"exceeds the {detail} slots of the widest worker of this model"
                raise InvalidRequestError([FieldError("n", message)])
            case _:
                raise AssertionError(f"submit.lua answered {status!r}")

    def _call_submit(self, arguments: Sequence[Argument]) -> Any:
        """Tells whether a call that failed can have been carried out."""
        with noted_failures() as failures:
            try:
                return self._scripts.call("submit", *arguments)
            except RedisError as error:
                if not is_away(error):
                    raise
                # Where Redis itself refuses, only earlier attempts are in doubt.
                in_doubt = failures if isinstance(error, ResponseError) else [*failures, error]
                if may_have_been_sent(in_doubt):
                    raise OutcomeUnknownError(retry_after=REDIS_RETRY_SECONDS) from error
                detail = "Redis cannot be reached at present; nothing was accepted"
                raise UnavailableError(detail, retry_after=REDIS_RETRY_SECONDS) from error

    def _with_positions(self, jobs: Sequence[Job]) -> list[Job]:
        """The same jobs; those that wait know where they stand, or why they do."""
        positions = self._positions([job.id for job in jobs if job.is_waiting])
        return [replace(job, **_position(job, *positions[job.id])) if job.is_waiting else job for job in jobs]

    def _positions(self, waiting: Sequence[str]) -> dict[str, Any]:
        """Where waiting jobs stand, by id, as positions.lua answers."""
        return dict(zip(waiting, self._scripts.call("positions", *waiting), strict=True)) if waiting else {}

    def _creation_score(self, owner: str, job_id: str) -> str:
        # Redis' clock gives no two jobs the same microsecond, so the score alone is a cursor.
        score = self.redis.zscore(keys.owner_jobs(owner), job_id)
        if score is None:
            raise InvalidRequestError([FieldError("after", f"there is no job {job_id}")])
        return f"{score:.6f}"

    def _now(self) -> float:
        seconds, micros = self.redis.time()
        return seconds + micros / 1e6


@dataclass(frozen=True, slots=True)
class _Draft:
    """A job before it is stored. request: as accepted, with its defaults and a seed."""

    request: dict[str, Any]
    version: int
    is_seed_drawn: bool

    @classmethod
    def of(cls, accepted: Mapping[str, Any]) -> _Draft:
        seed = {} if "seed" in accepted else {"seed": secrets.randbelow(MAX_DRAWN_SEED)}
        return cls({**accepted, **seed}, version_of(accepted), is_seed_drawn=bool(seed))

    def arguments(self) -> list[Argument]:
        """Its part of submit.lua's."""
        request, encoded = self.request, json.dumps(self.request, ensure_ascii=False)
        return [
            _new_job_id(),
            encoded,
            self.version,
            request["n"],
            request["max_tokens"],
            PRIORITY_BONUS_TOKENS[Priority(request["priority"])],
            request.get("expires_in", ""),
            request.get("timeout", ""),
            int(self.is_seed_drawn),
            prompt_start(request) if len(encoded) > SHORT_REQUEST_CHARACTERS else "",
        ]

    def job(self, job_id: str, owner: str, created_at: float) -> Job:
        """As submit.lua wrote it."""
        return Job(
            id=job_id,
            owner=owner,
            model=self.request["model"],
            status=Status.QUEUED,
            request=self.request,
            created_at=created_at,
            started_at=None,
            first_token_at=None,
            ended_at=None,
            attempts=[],
            output=[Choice(index) for index in range(self.request["n"])],
            prompt_tokens=0,
            error=None,
            read_at=created_at,
            is_seed_drawn=self.is_seed_drawn,
            version=self.version,
            is_waiting=True,
        )


def _position(
    job: Job, ahead: int, live_slots: int, widest: int, slot_seconds: str, is_too_new: int
) -> dict[str, Any]:
    """The fields that tell when a job's turn comes; between two attempts only why it waits.

    ahead: -1 where it is on offer to a worker. live_slots, widest: of the workers that may take it.
    is_too_new: 1 where workers live, but of releases that do not understand its record.
    """
    n = job.request["n"]
    can_run = n <= widest
    if is_too_new:
        reason = "the workers of this model are of an earlier release, which cannot run this request"
    elif not live_slots:
        reason = "no worker serves this model at present"
    elif not can_run:
        reason = f"no worker has the {n} slots that it takes at present; the widest has {widest}"
    elif ahead < 0:
        reason = "a worker is about to start it"
    elif ahead == 0:
        reason = "next in line"
    else:
        reason = f"{ahead} job{'s' if ahead > 1 else ''} ahead"
    if job.status is not Status.QUEUED:
        return {"reason": reason}
    eta = (ahead + 1) * float(slot_seconds) / live_slots if slot_seconds and can_run else None
    return {
        "queue_position": max(ahead, 0),
        "eta_seconds": None if eta is None else round(eta, 3),
        "reason": reason,
    }


def _new_job_id() -> str:
    # Begins with the time, so that jobs with equal tags stand in line in the order of their coming.
    return f"job_{time.time_ns() // 1_000:013x}{secrets.token_hex(8)}"


def _hash(body: object) -> str:
    """body: JSON."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
