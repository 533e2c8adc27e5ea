"""Reads jobs, lists of jobs and their logs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tasks import keys
from tasks.errors import FieldError, InvalidRequestError, JobNotFoundError
from tasks.job import TERMINAL_STATUSES, Job, JobSummary, Status
from tasks.log import Entry, parse_entry, unpack
from tasks.positions import Position
from tasks.record import job_from_record, prompt_start
from tasks.scripts import Answer, Scripts


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
class JobHeader:
    """A job's owner, its status and the length of its log."""

    owner: str
    status: Status
    log_length: int

    def has_nothing_after(self, seq: int) -> bool:
        return self.status in TERMINAL_STATUSES and self.log_length <= seq


@dataclass(frozen=True, slots=True)
class LogPage:
    """Successive entries of a log, and the job's status at that moment; None if there is no such job."""

    status: Status | None
    entry_texts: list[str]
    """The entries as they are stored in the log."""

    @property
    def entries(self) -> list[Entry]:
        return [parse_entry(text) for text in self.entry_texts]


class JobReader:
    """Reads records and logs. Every method may raise redis.exceptions.RedisError."""

    def __init__(self, scripts: Scripts) -> None:
        self.scripts = scripts
        self.redis = scripts.redis

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """Returns the job as it is now. `owner` None reads anybody's. Raises JobNotFoundError."""
        jobs = [job for part in self.read([job_id]) for job in part]
        if not jobs or (owner is not None and jobs[0].owner != owner):
            raise JobNotFoundError(f"there is no job {job_id}")
        return jobs[0]

    def list_jobs(
        self, owner: str, status: Status | None = None, limit: int = 20, after: str | None = None
    ) -> Page:
        """Returns an owner's jobs, newest first. Raises what `list_ids` raises."""
        page = self.list_ids(owner, status, limit, after)
        return Page([job for part in self.read(page.ids) for job in part], page.has_more)

    def list_ids(
        self, owner: str, status: Status | None = None, limit: int = 20, after: str | None = None
    ) -> IdPage:
        """Returns the ids of an owner's jobs, newest first; with `after`, those that come after that job.

        Raises InvalidRequestError if the owner has no job `after`.
        """
        index = keys.owner_jobs_by_status(owner, status) if status else keys.owner_jobs(owner)
        before = "+inf" if after is None else f"({self._creation_score(owner, after)}"
        found = self.redis.zrevrangebyscore(index, before, "-inf", start=0, num=limit + 1)
        ids = cast("list[str]", found)
        return IdPage(ids[:limit], has_more=len(ids) > limit)

    def read(self, job_ids: Sequence[str]) -> Iterator[list[Job]]:
        """Yields the jobs that exist, in the order given.

        They come in parts, so that no call blocks Redis or this process for long.
        """
        rest = list(job_ids)
        while rest:
            answer = self.scripts.call("read", long_enough=keys.LONG_ANSWER_BYTES, ids=rest)
            read_at, is_settling = float(answer["time"]), bool(answer["is_settling"])
            del rest[: len(answer["jobs"])]
            jobs = []
            for fields, log, standing in answer["jobs"]:
                if fields:
                    record = dict(zip(fields[::2], fields[1::2], strict=True))
                    job = job_from_record(record, log, read_at)
                    position = Position.parse(standing, is_settling=is_settling)
                    jobs.append(position.applied_to(job) if position else job)
            yield jobs

    def summaries(self, job_ids: Sequence[str]) -> list[JobSummary]:
        """Returns the summaries of the jobs that exist, in the order given."""
        rows: list[Sequence[Any]] = []
        while len(rows) < len(job_ids):
            rest = job_ids[len(rows) :]
            rows += self.scripts.call("summaries", long_enough=keys.LONG_ANSWER_BYTES, ids=rest)["rows"]
        return [_summary(job_id, *row) for job_id, row in zip(job_ids, rows, strict=True) if row[0]]

    def header(self, job_id: str, owner: str | None = None) -> JobHeader:
        """Returns a job's header. `owner` None reads anybody's. Raises JobNotFoundError."""
        page = self._log_page(job_id)
        if page.status == "not_found" or (owner is not None and page["owner"] != owner):
            raise JobNotFoundError(f"there is no job {job_id}")
        return JobHeader(page["owner"], Status(page["status"]), page["length"])

    def read_log(self, job_id: str) -> list[Entry]:
        """Returns the whole log; empty if there is no such job."""
        return self.read_page(job_id, after=0, limit=None).entries

    def read_page(self, job_id: str, after: int, limit: int | None) -> LogPage:
        """Returns the `limit` entries that follow the first `after` ones, or all of them without a limit."""
        end = None if limit is None else after + limit
        page = self._log_page(job_id, str(after), str(-1 if end is None else end - 1))
        if page.status == "not_found":
            return LogPage(None, [])
        entries = unpack(page["packed"])[after:end] if page["packed"] else page["entries"]
        return LogPage(Status(page["status"]), entries)

    def counts(self) -> dict[Status, int]:
        """Returns the number of jobs by status, 0 for a status without jobs."""
        found = cast("dict[str, str]", self.redis.hgetall(keys.COUNTS))
        return {status: int(found.get(status, 0)) for status in Status}

    def _log_page(self, job_id: str, first: str = "", last: str = "") -> Answer:
        return self.scripts.call("log_page", id=job_id, first=first, last=last)

    def _creation_score(self, owner: str, job_id: str) -> str:
        # Redis' clock gives no two jobs the same microsecond, so the score alone is a cursor.
        score = self.redis.zscore(keys.owner_jobs(owner), job_id)
        if score is None:
            raise InvalidRequestError([FieldError("after", f"there is no job {job_id}")])
        return f"{score:.6f}"


def _summary(
    job_id: str, status: str, model: str, created_at: str, start: str, request: str, standing: Sequence[Any]
) -> JobSummary:
    position = Position.parse(standing) if status == Status.QUEUED else None
    return JobSummary(
        job_id,
        Status(status),
        model,
        float(created_at),
        position.queue_position if position else None,
        start or prompt_start(json.loads(request)),
    )
