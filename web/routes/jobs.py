"""The native job routes."""

from __future__ import annotations

import logging
from typing import Annotated

from flask import Blueprint, Response
from redis.exceptions import RedisError

from tasks.connection import is_away
from tasks.errors import UnavailableError
from tasks.job import Job
from tasks.request import JobRequest, parse_request
from tasks.store import REDIS_RETRY_SECONDS, Submission
from web import auth
from web.answers import JobBody, JobListBody, TicketBody
from web.endpoints import NO_JOB, QUEUE_REFUSALS, TOO_MANY_STREAMS, Input, endpoint
from web.error_responses import error_response
from web.json_body import BODY_REFUSALS, read_json
from web.listing import list_response
from web.parameters import IdempotencyKey, ListQuery, PreferredWait, WaitQuery, from_query
from web.render import job_body, json_response
from web.services import base_url, services
from web.waiting import place_to_wait, wait_for_end

logger = logging.getLogger(__name__)

bp = Blueprint("jobs", __name__, url_prefix="/v1/jobs")

SUBMITTED = {202: "a new job", 200: "the job has ended, or an earlier submit with the same key made it"}

JobParameters = Annotated[
    JobRequest, Input(lambda: parse_request(read_json()), body=JobRequest, refusals=BODY_REFUSALS)
]


@bp.post("")
@endpoint("Submit a job", {**SUBMITTED, **QUEUE_REFUSALS}, gives=JobBody)
def submit(key: IdempotencyKey, wait: PreferredWait, body: JobParameters) -> Response:
    with place_to_wait(auth.owner(), wait):
        return _submitted(services().store.submit(body, auth.owner(), key), wait)


@bp.get("")
@endpoint("List your jobs, newest first", {200: "a page"}, gives=JobListBody)
def list_jobs(query: Annotated[ListQuery, from_query]) -> Response:
    store, url = services().store, base_url()
    page = store.list_ids(auth.owner(), query.status, query.limit, query.after)
    if query.fields == "summary":
        return list_response([[job.to_dict() for job in store.summaries(page.ids)]], has_more=page.has_more)
    parts = ([job_body(job, url) for job in part] for part in store.read(page.ids))
    return list_response(parts, has_more=page.has_more)


@bp.get("/<job_id>")
@endpoint("A job now, or when it has ended", {200: "the job", **NO_JOB, **TOO_MANY_STREAMS}, gives=JobBody)
def get(job_id: str, query: Annotated[WaitQuery, from_query]) -> Response:
    job = services().store.get(job_id, auth.owner())
    if query.wait and not job.is_ended:
        with place_to_wait(auth.owner(), query.wait):
            wait_for_end(job_id, query.wait)
        job = services().store.get(job_id, auth.owner())
    return _job(job)


@bp.post("/<job_id>/retry")
@endpoint(
    "Run an ended job that did not complete again, as a new one",
    {**SUBMITTED, **QUEUE_REFUSALS, 409: "it has not ended, or it completed", **NO_JOB},
    gives=JobBody,
)
def retry(job_id: str, key: IdempotencyKey, wait: PreferredWait) -> Response:
    with place_to_wait(auth.owner(), wait):
        return _submitted(services().store.retry(job_id, auth.owner(), key), wait)


@bp.post("/<job_id>/cancel")
@endpoint("Cancel a job", {200: "the job", **NO_JOB}, gives=JobBody)
def cancel(job_id: str) -> Response:
    services().store.cancel(job_id, auth.owner())
    return _job(services().store.get(job_id, auth.owner()))


@bp.delete("/<job_id>")
@endpoint("Delete an ended job", {204: "gone", 409: "it has not ended", **NO_JOB})
def delete(job_id: str) -> Response:
    services().store.delete(job_id, auth.owner())
    return Response(status=204)


@bp.post("/<job_id>/ticket")
@endpoint("A ticket for `?ticket=` on the streams", {200: "a ticket", **NO_JOB}, gives=TicketBody)
def ticket(job_id: str) -> Response:
    services().log.header(job_id, auth.owner())
    issued = auth.issue_ticket(services().store.redis, job_id)
    return json_response(issued.to_dict())


def _submitted(submission: Submission, wait: int | None) -> Response:
    """Returns 202 for a new job; 200 if it has ended within `wait` seconds, or an earlier submit made it.

    The job is accepted. If Redis cannot be reached any more, the answer shows the job as it was read last.
    """
    job = submission.job
    try:
        job = services().store.get(submission.job_id, auth.owner())
        if wait and not job.is_ended:
            wait_for_end(job.id, wait)
            job = services().store.get(job.id, auth.owner())
    except RedisError as error:
        if not is_away(error):
            raise
        logger.warning("%s was accepted, and Redis cannot be reached any more: %s", submission.job_id, error)
    if job is None:
        detail = f"Redis cannot be reached at present; {submission.job_id} was accepted before"
        response = error_response(UnavailableError(detail, retry_after=REDIS_RETRY_SECONDS))
    else:
        has_waited = wait is not None and job.is_ended
        response = _job(job, 200 if has_waited or not submission.created else 202)
    response.headers["Location"] = f"{base_url()}/v1/jobs/{submission.job_id}"
    if wait is not None:
        response.headers["Preference-Applied"] = f"wait={wait}"
    return response


def _job(job: Job, status: int = 200) -> Response:
    return json_response(job_body(job, base_url()), status)
