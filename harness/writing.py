"""Writes as a worker does, for tests that play one."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.leases import Leases, Outcome, Write, WriteStatus
from tasks.log import TokenEntry


def write_of(
    job_id: str,
    lease_token: str,
    base: int,
    prompt_tokens: int,
    entries: Sequence[TokenEntry] = (),
    outcome: Outcome | None = None,
) -> Write:
    """Returns a write of entries that are not encoded yet."""
    return Write(job_id, lease_token, base, [entry.encode() for entry in entries], prompt_tokens, outcome)


def flush(leases: Leases, writes: Sequence[Write], *, renew: bool = True) -> list[WriteStatus | None]:
    """Flushes and returns a status for each write: None if its job goes on."""
    answers = leases.flush(writes, renew=renew)
    return [answers[index].status if index in answers else None for index in range(len(writes))]
