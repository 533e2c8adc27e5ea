"""What can go wrong, by kind."""

from __future__ import annotations

from typing import Any

import httpx


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
    """408, 429 or 503, still: the server takes no jobs at present, or the network is too slow."""


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
    503: UnavailableError,
}


def api_error(response: httpx.Response) -> ApiError:
    """The error that a response of 4xx or 5xx stands for; a proxy's need not be a problem in JSON."""
    try:
        problem = response.json()
        detail, code, errors = problem["detail"], problem.get("code", ""), problem.get("errors", [])
    except (ValueError, KeyError, TypeError):
        detail, code, errors = f"HTTP {response.status_code} {response.reason_phrase}", "", []
    kind = ERRORS_BY_STATUS.get(response.status_code, ApiError)
    return kind(response.status_code, detail, code, errors)
