"""Jobs as the server describes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ENDED = frozenset({"completed", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True)
class Job:
    """One answer of the server about a job. `fields` is all of it; the properties are the most used."""

    fields: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.fields["id"])

    @property
    def status(self) -> str:
        return str(self.fields["status"])

    @property
    def is_ended(self) -> bool:
        return self.status in ENDED

    @property
    def texts(self) -> list[str]:
        """The outputs, one for each of n choices."""
        return [choice["text"] for choice in self.fields["output"]]

    @property
    def text(self) -> str:
        """The first choice's output."""
        return self.texts[0]

    @property
    def queue_position(self) -> int | None:
        """0 is next; None once it has started."""
        position: int | None = self.fields["queue_position"]
        return position

    @property
    def eta_seconds(self) -> float | None:
        eta: float | None = self.fields["eta_seconds"]
        return eta

    @property
    def error(self) -> str | None:
        """The message of its error; None if it has not failed."""
        error = self.fields["error"]
        return None if error is None else f"{error['code']}: {error['message']}"


@dataclass(frozen=True, slots=True)
class JobPage:
    """A page of jobs, newest first. Where `has_more`, `jobs[-1].id` is the `after` of the next page."""

    jobs: list[Job]
    has_more: bool


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job as lists show it.

    created_at: ISO 8601, UTC. queue_position: 0 is next; None once it has started.
    prompt: the first 200 characters of its prompt or messages.
    """

    id: str
    status: str
    model: str
    created_at: str
    queue_position: int | None
    prompt: str

    @classmethod
    def of(cls, fields: dict[str, Any]) -> JobSummary:
        """Returns the summary in a server's answer. Fields of later servers are ignored."""
        return cls(**{name: fields[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class SummaryPage:
    """A page of summaries, newest first. Where `has_more`, `jobs[-1].id` is the `after` of the next page."""

    jobs: list[JobSummary]
    has_more: bool
