"""Who asks: API keys, and tickets for browsers, whose WebSocket and EventSource cannot send headers."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from flask import Flask, g, request
from redis import Redis

from tasks import keys
from tasks.errors import UnauthorizedError
from tasks.job import iso8601
from tasks.settings import ANONYMOUS
from web.answers import TicketBody
from web.services import services

TICKET_SECONDS = 15 * 60

PUBLIC_ENDPOINTS = frozenset(
    {"static", "site.index", "site.page", "docs.document", "docs.page"}
    | {"health.live", "health.web", "health.ready"}
)
READING_ENDPOINTS = frozenset({"stream.events", "stream.stream"})
"""These take tickets as well, and answer for themselves: a WebSocket's 401 is a close code."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A right to read one job for a while; `expires_at` in seconds since the epoch by Redis' clock."""

    ticket: str
    expires_at: float

    def to_dict(self) -> TicketBody:
        return {"ticket": self.ticket, "expires_at": iso8601(self.expires_at)}


def register(app: Flask) -> None:
    app.before_request(_require_key)


def owner() -> str:
    """Whose key the request brought."""
    return str(g.owner)


def readable_owner(job_id: str) -> str | None:
    """Whose jobs the request may read: the key's owner, or None (anybody's) with a ticket for this job.

    Raises UnauthorizedError and redis.exceptions.RedisError.
    """
    ticket = request.args.get("ticket")
    if ticket and services().settings.api_keys and "Authorization" not in request.headers:
        if services().store.redis.get(_ticket_key(ticket)) != job_id:
            raise UnauthorizedError("the ticket is not for this job, or no longer valid")
        return None
    return authenticate()


def authenticate() -> str:
    """The request's owner. Raises UnauthorizedError."""
    names_by_key = services().settings.api_keys
    if not names_by_key:
        return ANONYMOUS
    given = _bearer_key()
    if not given:
        raise UnauthorizedError
    found = [name for key, name in names_by_key.items() if hmac.compare_digest(key.encode(), given)]
    if not found:
        raise UnauthorizedError("the API key is not valid")
    return found[0]


def _bearer_key() -> bytes:
    """The key as it was sent. Werkzeug's parser would take a key with a `=` inside for parameters."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    # WSGI hands a header's bytes over as Latin-1.
    return key.strip(" \t").encode("latin-1", "replace") if scheme.lower() == "bearer" else b""


def issue_ticket(redis: Redis, job_id: str) -> Ticket:
    """Raises redis.exceptions.RedisError."""
    ticket = secrets.token_urlsafe(32)
    pipe = redis.pipeline(transaction=True)
    pipe.time()
    pipe.set(_ticket_key(ticket), job_id, ex=TICKET_SECONDS)
    (seconds, micros), _ = pipe.execute()
    return Ticket(ticket, seconds + micros / 1e6 + TICKET_SECONDS)


def _require_key() -> None:
    # A route that nobody thought of is closed; where there is none, Flask answers 404.
    if request.url_rule is None or request.endpoint in PUBLIC_ENDPOINTS | READING_ENDPOINTS:
        return
    g.owner = authenticate()


def _ticket_key(ticket: str) -> str:
    """String: the job's id. Hashed, so that whoever sees Redis' keys cannot use the tickets."""
    return f"{keys.PREFIX}ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"
