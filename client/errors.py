"""The errors that the client raises."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any


class ClientError(Exception):
    """The server did not do what was asked."""


class UnreachableError(ClientError):
    """The server did not answer within the time for retries."""


class WaitTimeoutError(ClientError):
    """The job had not ended in time; it continues."""


class ApiError(ClientError):
    """The server refused the request; the message is the server's.

    status: the HTTP status. code: the server's error code. errors: one {field, message} per bad field.
    """

    def __init__(self, status: int, detail: str, code: str = "", errors: Any = ()) -> None:
        self.status = status
        self.code = code
        self.errors: list[dict[str, str]] = list(errors)
        super().__init__(detail)


class InvalidRequestError(ApiError):
    """400, 413, 415 or 422: the request is invalid."""


class UnauthorizedError(ApiError):
    """401: a valid API key is needed."""


class NotFoundError(ApiError):
    """404: there is no such job, or it is not this key's."""


class ConflictError(ApiError):
    """409: the job's status does not allow it."""


class UnavailableError(ApiError):
    """408, 429, 502, 503 or 504 to the last retry: the server, or a proxy, cannot serve the request now."""


ERRORS_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    404: NotFoundError,
    408: UnavailableError,
    409: ConflictError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: UnavailableError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}


def api_error(status: int, body: bytes | None) -> ApiError:
    """Returns the error for an answer with status 4xx or 5xx.

    The answer of a proxy may be anything, not only a problem in JSON.
    """
    problem = _problem(body or b"")
    detail, errors = problem.get("detail"), problem.get("errors")
    kind = ERRORS_BY_STATUS.get(status, ApiError)
    return kind(
        status,
        # One line, whatever the server sends: it goes to terminals and logs.
        " ".join(detail.split()) if isinstance(detail, str) and detail.strip() else _phrase(status),
        str(problem.get("code", "")),
        errors if isinstance(errors, list) else (),
    )


def _problem(body: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _phrase(status: int) -> str:
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"
