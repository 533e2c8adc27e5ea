"""Calls that wait: they run the jobs of one request, answer when these have ended, and name them.

A client that leaves before that cancels the jobs that its call made, unless it comes back with its key.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from flask import Response
from redis.exceptions import RedisError

from tasks.connection import is_away
from tasks.errors import JobNotFoundError, TokenrelayError
from tasks.job import Job, Origin, Status
from tasks.request import JobRequest
from tasks.store import Store
from web import auth
from web.abandoned import cancel_unless_resumed
from web.answers import NotAwaitedBody
from web.error_responses import error_response
from web.render import json_response, to_json
from web.services import base_url, services
from web.waiting import wait_for_all

MAX_IDS_IN_HEADER = 64
"""The most ids in X-Job-ID: 2 KiB. By default nginx accepts 4 KiB of headers, and answers 502 to more."""

STATUS_BY_ERROR_CODE = {
    "prompt_too_long": 422,
    "invalid_messages": 422,
    "invalid_prompt": 422,
    "invalid_grammar": 422,
    "timeout": 504,
    "expired": 504,
    "model_not_available": 503,
}
"""HTTP statuses for a job's error codes. The others are 502: the worker's fault, not this server's."""

CLIENT_LEFT = 499
"""nginx's status for its logs. No client reads the answer."""

Render = Callable[[list[Job]], object]
"""Returns the body of the answer, from the completed jobs in the order of their requests."""

logger = logging.getLogger(__name__)


class JobFailedError(TokenrelayError):
    """The job did not complete."""

    title = "Job not completed"

    def __init__(self, job: Job) -> None:
        self.code = job.error.code if job.error else str(job.status)
        self.status = 409 if job.status is Status.CANCELLED else STATUS_BY_ERROR_CODE.get(self.code, 502)
        super().__init__(f"{job.id}: {job.error.message if job.error else f'the job was {job.status}'}")


class CallJobs:
    """The jobs of one request."""

    def __init__(self, store: Store, earlier: Sequence[str] = ()) -> None:
        """earlier: ids of jobs that an earlier request made."""
        self._store = store
        self._created: list[str] = []
        self._has_key = False
        self.ids = list(earlier)

    def submit(
        self,
        requests: Sequence[JobRequest],
        owner: str,
        key: str | None,
        origin: Origin | None,
        keep_seconds: float | None,
    ) -> None:
        """Submits all of them or none. Raises what Store.submit raises."""
        submissions = self._store.submit_all(requests, owner, key, origin=origin, keep_seconds=keep_seconds)
        self.ids = [submission.job_id for submission in submissions]
        self._created = [submission.job_id for submission in submissions if submission.created]
        self._has_key = key is not None

    def results(self) -> list[Job]:
        """Returns the jobs. Raises JobFailedError for the first one that did not complete."""
        ended = [self._store.get(job_id) for job_id in self.ids]
        for job in ended:
            if job.status is not Status.COMPLETED:
                raise JobFailedError(job)
        return ended

    def cancel(self) -> None:
        """Cancels the jobs that this request made. Another client may wait for the others."""
        for job_id in self._created:
            with suppress(RedisError, JobNotFoundError):  # The job ends by itself after its last token.
                self._store.cancel(job_id)

    def abandon(self) -> None:
        """Cancels the jobs because the client has left, at once if it cannot come back for them.

        With a key it can: OpenAI's SDK repeats a call whose time is up. Then no matter which of the calls
        made the jobs, they end if nobody reads them any more.
        """
        if self._has_key:
            cancel_unless_resumed(self._store, self.ids)
        else:
            self.cancel()

    def answered(self, make: Callable[[], Response]) -> Response:
        """Returns the response that `make` returns, with the jobs' names.

        If `make` raises one of our errors, it is the answer, and the jobs of this request are cancelled.
        If Redis cannot be reached any more, the answer says where to ask for the jobs: they are stored.
        """
        try:
            response = make()
        except TokenrelayError as error:
            self.cancel()
            response = error_response(error)
        except RedisError as error:
            if not is_away(error):
                raise
            logger.warning(
                "%s: accepted, and Redis cannot be reached any more: %s", ", ".join(self.ids), error
            )
            response = self._not_awaited()
        return self.named_in(response)

    def _not_awaited(self) -> Response:
        """Returns where to ask for the jobs: they are stored, but their ends could not be awaited."""
        urls = [f"{base_url()}/v1/jobs/{job_id}" for job_id in self.ids]
        detail = "Redis cannot be reached at present; the jobs were accepted and will end"
        body: NotAwaitedBody = {"detail": detail, "jobs": urls}
        response = json_response(body, 202)
        response.headers["Location"] = urls[0]
        return response

    def named_in(self, response: Response) -> Response:
        """Names the jobs in X-Job-ID. If they are many, the first are there, and all in a JSON body."""
        response.headers["X-Job-ID"] = ",".join(self.ids[:MAX_IDS_IN_HEADER])
        response.headers["x-request-id"] = self.ids[0]  # OpenAI's SDK shows it as `_request_id`.
        if len(self.ids) > MAX_IDS_IN_HEADER and response.is_json:
            response.set_data(to_json({**json.loads(response.get_data()), "job_ids": self.ids}))
        return response


def submit(
    requests: Sequence[JobRequest],
    key: str | None,
    origin: Origin | None = None,
    keep_seconds: float | None = None,
) -> CallJobs:
    """Submits the jobs of the current request.

    key: its Idempotency-Key. origin, keep_seconds: see `Job`.
    """
    jobs = CallJobs(services().store)
    jobs.submit(requests, auth.owner(), key, origin, keep_seconds)
    return jobs


def answer(
    requests: Sequence[JobRequest],
    key: str | None,
    render: Render,
    origin: Origin | None = None,
    keep_seconds: float | None = None,
) -> Response:
    """Runs the jobs and answers with their results, or with the error of the first that did not complete."""
    with services().streams.hold(auth.owner()):
        return _run(submit(requests, key, origin, keep_seconds), render)


def answer_again(job_ids: Sequence[str], render: Render) -> Response:
    """Waits for jobs of an earlier request, and answers as it would. A client that leaves cancels nothing."""
    with services().streams.hold(auth.owner()):
        return _run(CallJobs(services().store, job_ids), render)


def _run(jobs: CallJobs, render: Render) -> Response:
    def response() -> Response:
        if wait_for_all(jobs.ids):
            return json_response(render(jobs.results()))
        jobs.abandon()
        return Response(status=CLIENT_LEFT)

    return jobs.answered(response)
