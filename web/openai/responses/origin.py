"""What the record of a job has beside its request, so that the job can be shown as a response."""

from __future__ import annotations

from typing import Literal, cast

from typing_extensions import TypedDict

from tasks.job import Job

API: Literal["responses"] = "responses"


class Turn(TypedDict):
    """An earlier response of the conversation. `messages`: how many it had as its own input."""

    id: str
    messages: int


class ResponseOrigin(TypedDict):
    """A job's `origin`.

    `instructions` are a copy, because the request is cut short if it could never run, and the events of a
    stream must stay the same. `turns`: the earlier responses, the first one first. The job's messages are the
    instructions, then the input and the output of each turn, then its own input.
    """

    api: Literal["responses"]
    background: bool
    store: bool
    instructions: str | None
    turns: list[Turn]
    user: str | None


def origin_of(job: Job) -> ResponseOrigin | None:
    """Returns the origin of a response's job; None if another API made the job."""
    if job.origin is None or job.origin.get("api") != API:
        return None
    return cast(ResponseOrigin, job.origin)


def origin_of_response(job: Job) -> ResponseOrigin:
    """Returns the origin of a job that is a response."""
    origin = origin_of(job)
    assert origin is not None, job.id
    return origin
