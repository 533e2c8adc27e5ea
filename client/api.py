"""The client: one method per route. It retries while the server cannot be reached or is full."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from client.errors import (
    ApiError,
    ClientError,
    UnavailableError,
    UnreachableError,
    WaitTimeoutError,
    api_error,
)
from client.job import Job, JobPage, JobSummary, SummaryPage
from client.retry import OnRetry, RetryPolicy, is_final
from client.stream import Event, events, without_password

DEFAULT_URL = "http://127.0.0.1:8000"
POLL_SECONDS = 30
"""The length of one long poll; the server accepts at most 60."""

CALL_SECONDS = 15.0
"""How long an answer may take, in addition to the time for which the server is asked to wait."""


class Client:
    """Talks to one server. Threads may share it. It is a context manager.

    retry_seconds: how long calls and streams are retried while the server cannot be reached or is full. A
    retry never makes a second job.
    on_retry: is called with each failure that will be retried, in the thread of the call.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        retry_seconds: float = 60.0,
        on_retry: OnRetry | None = None,
    ) -> None:
        self._headers = _authorization(api_key)
        self._retry_seconds = retry_seconds
        self._on_retry = on_retry
        self._http = httpx.Client(
            base_url=_checked_url(base_url),
            headers=[(name.encode(), value.encode()) for name, value in self._headers.items()],
            timeout=httpx.Timeout(CALL_SECONDS + POLL_SECONDS, connect=CALL_SECONDS),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(self, prompt: str | None = None, *, idempotency_key: str | None = None, **options: Any) -> Job:
        """Submits a job and returns it.

        options: the other fields of the submit body: max_tokens, messages, seed, ...
        idempotency_key: your own key, which makes it safe to repeat the submit in another run of a program.
        Raises InvalidRequestError, UnavailableError and UnreachableError, as all methods do.
        """
        body = options if prompt is None else {"prompt": prompt, **options}
        return self._create("/v1/jobs", idempotency_key, body)

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """Submits the request of a job that ended without completing again. Raises ConflictError."""
        return self._create(f"/v1/jobs/{job_id}/retry", idempotency_key, None)

    def get(self, job_id: str) -> Job:
        """Returns the job as it is now. Raises NotFoundError."""
        return Job(self._call("GET", f"/v1/jobs/{job_id}"))

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Returns the job when it has ended. Raises WaitTimeoutError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = POLL_SECONDS if deadline is None else deadline - time.monotonic()
            seconds = max(0.0, min(left, POLL_SECONDS))
            job = Job(self._call("GET", f"/v1/jobs/{job_id}", params={"wait": f"{seconds:.3f}"}))
            if job.is_ended:
                return job
            if left <= 0:
                raise WaitTimeoutError(f"{job_id} is {job.status} after {timeout} s")

    def stream(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """Yields the job's events after number `after`, each once, to the end, even if the server restarts.

        The job in the last one, `done`, lacks its request and its output, which `get` returns.
        """
        base = str(self._http.base_url).rstrip("/")
        url = f"ws{base.removeprefix('http')}/v1/jobs/{job_id}/stream"
        return events(url, self._headers, after, self._retry_policy())

    def cancel(self, job_id: str) -> Job:
        """Cancels the job and returns it. A no-op for a job that has ended."""
        return Job(self._call("POST", f"/v1/jobs/{job_id}/cancel"))

    def list(self, status: str | None = None, limit: int = 20, after: str | None = None) -> JobPage:
        """Returns a page of the key's jobs, newest first. after: the last id of the page before."""
        page = self._call("GET", "/v1/jobs", params=_given(status=status, limit=limit, after=after))
        return JobPage([Job(fields) for fields in page["data"]], page["has_more"])

    def summaries(self, status: str | None = None, limit: int = 20, after: str | None = None) -> SummaryPage:
        """Returns a page as `list` does, of summaries without requests and outputs."""
        params = _given(status=status, limit=limit, after=after, fields="summary")
        page = self._call("GET", "/v1/jobs", params=params)
        return SummaryPage([JobSummary.of(fields) for fields in page["data"]], page["has_more"])

    def delete(self, job_id: str) -> None:
        """Deletes an ended job. Raises ConflictError while it has not ended."""
        self._call("DELETE", f"/v1/jobs/{job_id}")

    def _retry_policy(self) -> RetryPolicy:
        return RetryPolicy(self._retry_seconds, self._on_retry)

    def _create(self, path: str, idempotency_key: str | None, body: dict[str, Any] | None) -> Job:
        # One key for all tries of this call: if only the answer was lost, the server returns the same job.
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return Job(self._call("POST", path, headers=headers, json=body))

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        """Returns the answer's JSON, None where it has no content.

        Raises ApiError and UnreachableError, and ClientError for what cannot be sent as JSON and UTF-8.
        """
        retry = self._retry_policy()
        is_repeated = False
        while True:
            try:
                response = self._http.request(method, path, **arguments)
            except (httpx.InvalidURL, ValueError) as refusal:
                raise ClientError(f"the request cannot be sent: {refusal}") from None
            except httpx.TransportError as failure:
                error: ApiError | UnreachableError = UnreachableError(
                    f"{without_password(self._http.base_url)}: {failure or type(failure).__name__}"
                )
                if is_final(failure):
                    raise error from None
                asked = 0.0
            else:
                if response.is_success:
                    return _decoded(response)
                if response.status_code == 404 and method == "DELETE" and is_repeated:
                    return None  # An earlier try deleted it; only the answer was lost.
                error, asked = api_error(response.status_code, response.content), _retry_after(response)
                if not isinstance(error, UnavailableError):
                    raise error
            if not retry.wait_for_retry(error, at_least=asked):
                raise error
            is_repeated = True


def _given(**parameters: Any) -> dict[str, Any]:
    """Returns the parameters that have a value."""
    return {name: value for name, value in parameters.items() if value is not None}


def _decoded(response: httpx.Response) -> Any:
    if response.status_code == 204:
        return None
    try:
        return response.json()
    except ValueError:
        raise ClientError(f"{response.url} did not answer with JSON; is it a Tokenrelay server?") from None


def _authorization(api_key: str | None) -> dict[str, str]:
    """Returns the header for a key. White space around the key is removed. Raises ClientError."""
    key = (api_key or "").strip()
    if not key.isprintable():
        raise ClientError("the API key holds a character that cannot be sent, such as a line end")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _checked_url(base_url: str) -> str:
    """Returns the URL without a final slash.

    Raises ClientError; its text does not show the URL, which may hold a password.
    """
    url = base_url.strip().rstrip("/")
    try:
        urlsplit(url)  # httpx lets an unclosed bracket pass.
        parts = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        parts = httpx.URL()
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ClientError("the server's address must be a URL such as http://127.0.0.1:8000")
    return url


def _retry_after(response: httpx.Response) -> float:
    """Returns seconds; 0 without the header, or where it is a date, as only proxies send it."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0
