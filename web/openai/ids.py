"""The ids of completions and responses: that of their first job, with OpenAI's prefix instead of ours."""

from __future__ import annotations

JOB, CHAT, TEXT, RESPONSE = "job_", "chatcmpl-", "cmpl-", "resp_"


def completion_id(prefix: str, job_id: str) -> str:
    return prefix + job_id.removeprefix(JOB)


def job_id_of(prefix: str, completion: str) -> str | None:
    """Returns the id of a completion's job; None if this is no id of such a completion."""
    return JOB + completion.removeprefix(prefix) if completion.startswith(prefix) else None
