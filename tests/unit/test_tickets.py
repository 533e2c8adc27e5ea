"""Tickets are random, stored as hashes, and valid for a quarter of an hour."""

from __future__ import annotations

import fakeredis

from web.auth import TICKET_SECONDS, issue_ticket


def test_a_ticket_is_kept_hashed_and_expires() -> None:
    redis = fakeredis.FakeRedis(decode_responses=True)
    ticket = issue_ticket(redis, "job_1").to_dict()["ticket"]
    (key,) = redis.keys()
    assert redis.get(key) == "job_1"
    assert str(ticket) not in str(key)
    assert 0 < redis.ttl(key) <= TICKET_SECONDS == 15 * 60


def test_tickets_differ() -> None:
    redis = fakeredis.FakeRedis(decode_responses=True)
    tickets = {issue_ticket(redis, "job_1").to_dict()["ticket"] for _ in range(10)}
    assert len(tickets) == 10
