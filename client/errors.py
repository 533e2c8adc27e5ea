"""What can go wrong, by kind."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any


class ClientError(Exception):
    """The server did not do what was asked."""


class UnreachableError(ClientError):
    """The server did not answer for as long as the client was willing to try."""


class WaitTimeoutError(ClientError):
    """The job had not ended in time; it goes on."""


class ApiError(ClientError):
    """The server's refusal. Its message is the server's own.

    status: HTTP's. code: the server's word for it. errors: one {field, message} per bad field.
    """

    def __init__(self, status: int, detail: str, code: str = "", errors: Any = ()) -> None:
        self.status = status
        self.code = code
        self.errors: list[dict[str, str]] = list(errors)
        super().__init__(detail)


class InvalidRequestError(ApiError):
    """400, 413, 415 or 422: the request will not do as it is."""


class UnauthorizedError(ApiError):
    """401: a valid API key is needed."""


class NotFoundError(ApiError):
    """404: there is no such job, or it is not this key's."""


class ConflictError(ApiError):
    """409: the job's status does not allow it."""


class UnavailableError(ApiError):
    """408, 429, 502, 503 or 504, still: the server, or a proxy before it, cannot serve this at present."""


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
    """Returns the error that an answer of 4xx or 5xx stands for.

    A proxy's answer need not be a problem in JSON.
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
