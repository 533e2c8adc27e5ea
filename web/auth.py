"""API keys, and tickets for browsers, whose WebSocket and EventSource cannot send headers."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Annotated

from flask import Flask, g, request
from redis import Redis

from tasks import keys
from tasks.errors import UnauthorizedError
from tasks.job import iso8601
from tasks.settings import ANONYMOUS
from web.answers import TicketBody
from web.endpoints import Input
from web.parameters import TicketQuery, parse_query
from web.services import services

TICKET_SECONDS = 15 * 60

PUBLIC_ENDPOINTS = frozenset(
    {"static", "site.index", "site.page", "docs.document", "docs.page"}
    | {"health.live", "health.web", "health.ready"}
)
READING_ENDPOINTS = frozenset({"streams.events", "streams.stream"})
"""These accept tickets as well, and authenticate by themselves: on a WebSocket a 401 is a close code."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A right to read one job for a while. `expires_at`: seconds since the epoch by Redis' clock."""

    ticket: str
    expires_at: float

    def to_dict(self) -> TicketBody:
        return {"ticket": self.ticket, "expires_at": iso8601(self.expires_at)}


def register(app: Flask) -> None:
    app.before_request(_require_key)


def owner() -> str:
    """Returns the name of the request's key."""
    return str(g.owner)


def _readable_owner() -> str | None:
    ticket = parse_query(TicketQuery).ticket
    if ticket and services().settings.api_keys and "Authorization" not in request.headers:
        job_id = (request.view_args or {})["job_id"]
        if services().store.redis.get(_ticket_key(ticket)) != job_id:
            raise UnauthorizedError("the ticket is not for this job, or no longer valid")
        return None
    return authenticate()


ReadableOwner = Annotated[str | None, Input(_readable_owner, query=TicketQuery)]
"""The owner of the jobs that the request may read: the key's owner; None (anybody) with a valid ticket."""


def authenticate() -> str:
    """Returns the name of the request's key, `anonymous` where there are none. Raises UnauthorizedError."""
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
    """Returns the key as it was sent. Werkzeug's parser would read a key with a `=` inside as parameters."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    # WSGI decodes the bytes of headers as Latin-1.
    return key.strip(" \t").encode("latin-1", "replace") if scheme.lower() == "bearer" else b""


def issue_ticket(redis: Redis, job_id: str) -> Ticket:
    """Makes a ticket for a job. Raises redis.exceptions.RedisError."""
    ticket = secrets.token_urlsafe(32)
    pipe = redis.pipeline(transaction=True)
    pipe.time()
    pipe.set(_ticket_key(ticket), job_id, ex=TICKET_SECONDS)
    (seconds, micros), _ = pipe.execute()
    return Ticket(ticket, seconds + micros / 1e6 + TICKET_SECONDS)


def _require_key() -> None:
    # Every route needs a key unless it is named here. Where there is no route, Flask answers 404.
    if request.url_rule is None or request.endpoint in PUBLIC_ENDPOINTS | READING_ENDPOINTS:
        return
    g.owner = authenticate()


def _ticket_key(ticket: str) -> str:
    """Returns the key of a string with the job's id. Tickets are hashed: Redis' keys do not reveal them."""
    return f"{keys.PREFIX}ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"
