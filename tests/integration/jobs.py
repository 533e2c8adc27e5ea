"""Waits for jobs and checks them, through the store."""

from __future__ import annotations

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks.job import Job, Status
from tasks.log import DoneEntry, StatusEntry, TokenEntry
from tasks.store import Store


def ended(store: Store, job_id: str, timeout: float = TIMEOUT_SECONDS) -> Job:
    return eventually(lambda: job if (job := store.get(job_id)).is_ended else None, timeout)  # type: ignore[return-value]


def started(store: Store, job_id: str, tokens: int = 1) -> Job:
    """Returns the job when it has this number of tokens."""
    return eventually(lambda: job if (job := store.get(job_id)).completion_tokens >= tokens else None)  # type: ignore[return-value]


def words(label: str, count: int) -> str:
    """Returns a prompt in which each word names its position, so that the echo shows any gap or repeat."""
    return " ".join(f"{label}/{i}" for i in range(count))


def assert_echoed(store: Store, job_id: str, prompt: str) -> Job:
    """Checks that the job completed, its text is its prompt, and its log has each entry once, in order."""
    job, entries = store.get(job_id), store.read_log(job_id)
    tokens = [entry for entry in entries if isinstance(entry, TokenEntry)]
    assert [i for entry in tokens for i in entry.token_ids] == list(range(len(prompt.split())))
    assert "".join(entry.text for entry in tokens) == job.output[0].text == prompt
    attempts = [entry.attempt for entry in entries if isinstance(entry, StatusEntry)]
    assert attempts == [attempt.number for attempt in job.attempts] == [*range(1, len(attempts) + 1)]
    assert entries[-1] == DoneEntry(Status.COMPLETED)
    assert sum(isinstance(entry, DoneEntry) for entry in entries) == 1
    return job
