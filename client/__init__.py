"""The Python client of Tokenrelay's HTTP API; needs httpx and websocket-client only.

with Client("http://127.0.0.1:8000") as client:
    job = client.submit("Once upon a time", max_tokens=50)
    for event in client.stream(job.id):
        ...
"""

from __future__ import annotations

from client.api import Client
from client.errors import (
    ApiError,
    ClientError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
    WaitTimeoutError,
)
from client.job import Job, JobPage, JobSummary, SummaryPage
from client.stream import Event

__all__ = [
    "ApiError",
    "Client",
    "ClientError",
    "ConflictError",
    "Event",
    "InvalidRequestError",
    "Job",
    "JobPage",
    "JobSummary",
    "NotFoundError",
    "SummaryPage",
    "UnauthorizedError",
    "UnavailableError",
    "UnreachableError",
    "WaitTimeoutError",
]
