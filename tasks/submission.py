"""Accepts jobs: stores their requests, or says why a submit is refused."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError, ResponseError

from tasks import keys
from tasks.connection import REDIS_RETRY_SECONDS, is_away, may_have_been_sent, noted_failures
from tasks.errors import (
    FieldError,
    IdempotencyConflictError,
    InvalidRequestError,
    OutcomeUnknownError,
    OverShareError,
    QueueFullError,
    TokenrelayError,
    UnavailableError,
    UnknownModelError,
)
from tasks.job import Choice, Job, Origin, Status
from tasks.record import prompt_start
from tasks.request import JobRequest, Priority, version_of
from tasks.scripts import Answer, Scripts
from tasks.settings import Settings

PRIORITY_BONUS_TOKENS = {Priority.HIGH: 16_384, Priority.NORMAL: 0, Priority.LOW: -16_384}
"""A head start in fair tags, worth 256 jobs of the default length. It is enough to pass any queue that a
person sees, and bounded, so that nobody waits forever."""

MEMORY_RETRY_SECONDS = 30
"""Memory becomes free when ended jobs pass their retention, which takes a while."""

SHORT_REQUEST_CHARACTERS = 2_000
"""Lists read a request whole if its JSON is at most this long. For a longer one the start of its prompt is
stored once more, for lists alone."""

NAMED_MODELS = 5
"""How many models a refusal names."""

MAX_DRAWN_SEED = 2**53
"""JavaScript's numbers are exact up to here, so a client can send a drawn seed back."""


@dataclass(frozen=True, slots=True)
class Submission:
    """job: as it was accepted; None if an Idempotency-Key led back to an earlier one."""

    job_id: str
    job: Job | None

    @property
    def created(self) -> bool:
        return self.job is not None


@dataclass(frozen=True, slots=True)
class Draft:
    """A job before it is stored.

    request: as accepted, with its defaults and a seed.
    origin, keep_seconds: see `Job`.
    """

    request: dict[str, Any]
    version: int
    is_seed_drawn: bool
    origin: Origin | None = None
    keep_seconds: float | None = None

    @classmethod
    def of(
        cls, accepted: Mapping[str, Any], origin: Origin | None = None, keep_seconds: float | None = None
    ) -> Draft:
        seed = {} if "seed" in accepted else {"seed": secrets.randbelow(MAX_DRAWN_SEED)}
        return cls({**accepted, **seed}, version_of(accepted), bool(seed), origin, keep_seconds)

    @property
    def has_reasoning(self) -> bool:
        """Whether reasoning is divided from its answer, if its model writes any.

        OpenAI's APIs do so for conversations. A grammar restricts the output from its first token on.
        """
        request = self.request
        return self.origin is not None and "messages" in request and "structured_outputs" not in request

    def job(self, job_id: str, owner: str, created_at: float) -> Job:
        """Returns the job as submit.lua stored it."""
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
            origin=self.origin,
            keep_seconds=self.keep_seconds,
        )

    def fields(self, encoded: str) -> dict[str, Any]:
        """Returns what submit.lua takes of a job beside its encoded request."""
        request = self.request
        fields = {
            "id": _new_job_id(),
            "version": self.version,
            "n": request["n"],
            "max_tokens": request["max_tokens"],
            "bonus": PRIORITY_BONUS_TOKENS[Priority(request["priority"])],
            "expires_in": request.get("expires_in"),
            "timeout": request.get("timeout"),
            "is_seed_drawn": self.is_seed_drawn,
            "prompt_start": prompt_start(request) if len(encoded) > SHORT_REQUEST_CHARACTERS else None,
            "origin": json.dumps(self.origin, ensure_ascii=False) if self.origin else None,
            "keep_seconds": self.keep_seconds,
            "has_reasoning": self.has_reasoning or None,
        }
        return {name: value for name, value in fields.items() if value not in (None, "")}


def accepted(request: JobRequest, settings: Settings) -> dict[str, Any]:
    """Returns a request as it is stored: with its defaults filled in, without the fields that are None."""
    return request.model_dump(mode="json", exclude_none=True) | {"model": request.model or settings.model}


def submit(
    scripts: Scripts,
    drafts: Sequence[Draft],
    body_hash: str,
    owner: str,
    idempotency_key: str | None,
    *,
    trusts_settings: bool = True,
) -> list[Submission]:
    """Stores all of the jobs or none. They name one model and engine. Raises what `Store.submit` does."""
    settings = scripts.settings
    model, engine = drafts[0].request["model"], drafts[0].request.get("engine")
    answer = _call(
        scripts,
        idempotency_key=idempotency_key or "",
        body_hash=body_hash,
        max_queued=settings.max_queued_jobs,
        trusts_settings=trusts_settings,
        **arguments_for(drafts, owner, settings),
    )
    match answer.status:
        case "created":
            created_at = float(answer["created_at"])
            ids = answer["ids"].split(",")
            return [
                Submission(job_id, draft.job(job_id, owner, created_at))
                for job_id, draft in zip(ids, drafts, strict=True)
            ]
        case "exists":
            return [Submission(job_id, None) for job_id in answer["ids"].split(",")]
        case _:
            raise refusal(answer, model, engine, settings)


def arguments_for(drafts: Sequence[Draft], owner: str, settings: Settings) -> dict[str, Any]:
    """Returns the arguments that scripts which store jobs have in common."""
    model, engine = drafts[0].request["model"], drafts[0].request.get("engine")
    requests = [json.dumps(draft.request, ensure_ascii=False) for draft in drafts]
    return {
        "owner": owner,
        "queue": keys.queue(model, engine),
        "model": model,
        "is_own_model": model == settings.model and engine in (None, settings.engine),
        "memory_share": settings.own_share,
        "jobs": [draft.fields(encoded) for draft, encoded in zip(drafts, requests, strict=True)],
        "requests": requests,
    }


def hashed(body: object) -> str:
    """Returns the hash of a JSON body."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _call(scripts: Scripts, **arguments: Any) -> Answer:
    """Runs submit.lua. If the call fails, the error says whether the jobs may have been accepted."""
    with noted_failures() as failures:
        try:
            return scripts.call("submit", **arguments)
        except RedisError as error:
            if not is_away(error):
                raise
            # If Redis itself refused the last attempt, only earlier attempts may have been accepted.
            in_doubt = failures if isinstance(error, ResponseError) else [*failures, error]
            if may_have_been_sent(in_doubt):
                raise OutcomeUnknownError(retry_after=REDIS_RETRY_SECONDS) from error
            detail = "Redis cannot be reached at present; nothing was accepted"
            raise UnavailableError(detail, retry_after=REDIS_RETRY_SECONDS) from error


def refusal(answer: Answer, model: str, engine: str | None, settings: Settings) -> TokenrelayError:
    """Returns the error for a script's answer that it stored no jobs."""
    match answer.status:
        case "conflict":
            return IdempotencyConflictError()
        case "full":
            detail = f"at most {settings.max_queued_jobs} jobs may wait"
            return QueueFullError(detail, retry_after=answer["retry_after"])
        case "over_share":
            return OverShareError(retry_after=MEMORY_RETRY_SECONDS)
        case "nearly_full":
            return UnavailableError("Redis is nearly full", retry_after=MEMORY_RETRY_SECONDS)
        case "unknown" if engine is not None:
            message = f"no worker ever announced '{model}' with this engine"
            return InvalidRequestError([FieldError("engine", message)])
        case "unknown":
            message = f"no worker ever announced '{model}'{_names(json.loads(answer['models']))}"
            return UnknownModelError(message)
        case "too_wide":
            message = f"exceeds the {answer['widest']} slots of the widest worker of this model"
            return InvalidRequestError([FieldError("n", message)])
        case _:
            raise AssertionError(f"submit.lua answered {answer.status!r}")


def _names(models: Mapping[str, Any] | Sequence[str]) -> str:
    """Returns the end of a sentence that names models that do exist, the first ones of many."""
    if not models:  # Lua's empty table is an empty object.
        return ""
    known = ", ".join(f"'{name}'" for name in sorted(models)[:NAMED_MODELS])
    return f"; workers announced {known}{' and others' if len(models) > NAMED_MODELS else ''}"


def _new_job_id() -> str:
    # It begins with the time, so that jobs with equal tags are in the order of their submits.
    return f"job_{time.time_ns() // 1_000:013x}{secrets.token_hex(8)}"
