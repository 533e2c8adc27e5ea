"""The native job routes."""

from __future__ import annotations

import logging

from flask import Blueprint, Response
from redis.exceptions import RedisError

from tasks.connection import REDIS_RETRY_SECONDS, is_away
from tasks.errors import UnavailableError
from tasks.job import Job
from tasks.request import parse_request
from tasks.submission import Submission
from web import auth, parameters
from web.error_responses import error_response
from web.json_body import read_json
from web.listing import list_response
from web.render import job_body, json_response
from web.services import base_url, services
from web.waiting import place_to_wait, wait_for_end

logger = logging.getLogger(__name__)

bp = Blueprint("jobs", __name__, url_prefix="/v1/jobs")


@bp.post("")
def submit() -> Response:
    key = parameters.idempotency_key()
    wait = parameters.preferred_wait()
    body = parse_request(read_json())
    with place_to_wait(auth.owner(), wait):
        return _submitted(services().store.submit(body, auth.owner(), key), wait)


@bp.get("")
def list_jobs() -> Response:
    query = parameters.parse_query(parameters.ListQuery)
    store, url = services().store, base_url()
    page = store.list_ids(auth.owner(), query.status, query.limit, query.after)
    if query.fields == "summary":
        return list_response([[job.to_dict() for job in store.summaries(page.ids)]], has_more=page.has_more)
    parts = ([job_body(job, url) for job in part] for part in store.read(page.ids))
    return list_response(parts, has_more=page.has_more)


@bp.get("/<job_id>")
def get(job_id: str) -> Response:
    wait = parameters.parse_query(parameters.WaitQuery).wait
    job = services().store.get(job_id, auth.owner())
    if wait and not job.is_ended:
        with place_to_wait(auth.owner(), wait):
            wait_for_end(job_id, wait)
        job = services().store.get(job_id, auth.owner())
    return _job(job)


@bp.post("/<job_id>/retry")
def retry(job_id: str) -> Response:
    key = parameters.idempotency_key()
    wait = parameters.preferred_wait()
    with place_to_wait(auth.owner(), wait):
        return _submitted(services().store.retry(job_id, auth.owner(), key), wait)


@bp.post("/<job_id>/cancel")
def cancel(job_id: str) -> Response:
    services().store.cancel(job_id, auth.owner())
    return _job(services().store.get(job_id, auth.owner()))


@bp.delete("/<job_id>")
def delete(job_id: str) -> Response:
    services().store.delete(job_id, auth.owner())
    return Response(status=204)


@bp.post("/<job_id>/ticket")
def ticket(job_id: str) -> Response:
    services().log.header(job_id, auth.owner())
    issued = auth.issue_ticket(services().store.redis, job_id)
    return json_response(issued.to_dict())


def _submitted(submission: Submission, wait: int | None) -> Response:
    """202 for a new job; 200 where it has ended within `wait` seconds, or an earlier one comes back.

    The job is accepted: where Redis cannot be reached any more, it is shown as it was seen last.
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
