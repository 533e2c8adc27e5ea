"""OpenAI's responses. Each is a job in the same queue as all others.

A client that leaves a response that it waits for cancels it, except in the background.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from flask import Blueprint, Response, request

from tasks.errors import FieldError, InvalidRequestError, JobNotFoundError
from tasks.job import Job
from web import auth, calls
from web.answers import NotAwaitedBody
from web.endpoints import EVENT_STREAM, NO_JOB, QUEUE_REFUSALS, TOO_MANY_STREAMS, endpoint
from web.json_body import from_body
from web.openai.errors import models_not_found
from web.openai.ids import RESPONSE, job_id_of
from web.openai.responses import conversation, streams
from web.openai.responses.bodies import DeletedResponseBody, ResponseBody
from web.openai.responses.bodies import response as response_body
from web.openai.responses.conversation import Earlier
from web.openai.responses.event_bodies import ResponseEvent
from web.openai.responses.events import count_events
from web.openai.responses.item_list import InputItemListBody, input_items
from web.openai.responses.origin import API, origin_of
from web.openai.responses.parameters import ResponseParameters
from web.openai.streams import place
from web.parameters import IdempotencyKey, ItemListQuery, ResponseStreamParameters, from_query
from web.relay import sse
from web.render import json_response
from web.services import services
from web.waiting import wait_for_end

CANCEL_SECONDS = 2.0
"""How long a cancel waits for the worker to stop. It usually takes a few milliseconds."""

bp = Blueprint(API, __name__, url_prefix="/v1/responses")


@bp.post("")
@endpoint(
    "Make a response",
    {
        200: "the response, or with `stream` its events; X-Job-ID names its job",
        202: "accepted, but then Redis could not be reached: `Location` and `jobs` say where to ask",
        404: "no worker ever announced this model",
        409: "the job was cancelled, or the previous response has not ended",
        502: "the job failed",
        504: "it took too long",
        **QUEUE_REFUSALS,
    },
    gives=ResponseBody,
    gives_else={202: NotAwaitedBody},
    streams=ResponseEvent,
)
def create(body: Annotated[ResponseParameters, from_body], key: IdempotencyKey) -> Response:
    earlier = _earlier(body)
    job = body.job(earlier.messages)
    origin = body.origin(earlier.turns)
    with models_not_found():
        if body.stream:
            with place() as until_closed:
                call = calls.submit([job], key, origin, body.keep_seconds)
                return streams.start(call, until_closed, is_background=body.background)
        if body.background:
            call = calls.submit([job], key, origin)
            return call.answered(lambda: json_response(response_body(services().store.get(call.ids[0]))))
        return calls.answer([job], key, _first_response, origin, body.keep_seconds)


@bp.get("/<response_id>")
@endpoint(
    "A response as it is now, or its stream",
    {
        200: "the response, or with `stream` its events",
        204: "it has ended, with no event after that",
        **NO_JOB,
        **TOO_MANY_STREAMS,
    },
    gives=ResponseBody,
    streams=ResponseEvent,
)
def show(response_id: str, query: ResponseStreamParameters) -> Response:
    job = _job(response_id)
    if not query.stream:
        return _shown(job)
    if query.starting_after is not None and job.is_ended:
        log = services().store.read_page(job.id, after=0, limit=None).entry_texts
        if query.starting_after >= count_events(job, log) - 1:
            return Response(status=204)
    if request.method == "HEAD":
        return Response(mimetype=EVENT_STREAM, headers=sse.HEADERS)
    with place() as until_closed:
        return streams.stream(job, until_closed, query.starting_after)


@bp.post("/<response_id>/cancel")
@endpoint(
    "Cancel a response",
    {200: "the response; one that has ended stays as it is", **NO_JOB},
    gives=ResponseBody,
)
def cancel(response_id: str) -> Response:
    job = _job(response_id)
    services().store.cancel(job.id, auth.owner())
    wait_for_end(job.id, CANCEL_SECONDS)
    return _shown(_job(response_id))


@bp.delete("/<response_id>")
@endpoint(
    "Delete a response that has ended, and its job",
    {200: "gone", 409: "it has not ended", **NO_JOB},
    gives=DeletedResponseBody,
)
def delete(response_id: str) -> Response:
    services().store.delete(_job(response_id).id, auth.owner())
    body: DeletedResponseBody = {"id": response_id, "object": "response", "deleted": True}
    return json_response(body)


@bp.get("/<response_id>/input_items")
@endpoint(
    "The input of a response, with that of the responses before it",
    {200: "a page", **NO_JOB},
    gives=InputItemListBody,
)
def list_input_items(response_id: str, query: Annotated[ItemListQuery, from_query]) -> Response:
    items = input_items(_job(response_id))
    if query.order == "desc":
        items.reverse()
    if query.after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == query.after]
        if not places:
            raise InvalidRequestError([FieldError("after", f"there is no item {query.after}")])
        items = items[places[0] + 1 :]
    page = items[: query.limit]
    body: InputItemListBody = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > len(page),
    }
    return json_response(body)


def _earlier(body: ResponseParameters) -> Earlier:
    if body.previous_response_id is None:
        return Earlier()
    earlier = conversation.earlier_conversation(services().store, auth.owner(), body.previous_response_id)
    conversation.check_length([*earlier.messages, *body.own_messages])
    return earlier


def _first_response(jobs: list[Job]) -> ResponseBody:
    return response_body(jobs[0])


def _job(response_id: str) -> Job:
    """Returns the job of a response. Raises JobNotFoundError."""
    job_id = job_id_of(RESPONSE, response_id)
    if job_id is not None:
        with suppress(JobNotFoundError):
            job = services().store.get(job_id, auth.owner())
            if origin_of(job) is not None:
                return job
    raise JobNotFoundError(f"there is no response {response_id}")


def _shown(job: Job) -> Response:
    response = json_response(response_body(job))
    response.headers["X-Job-ID"] = job.id
    return response
