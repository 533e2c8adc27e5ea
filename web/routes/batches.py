"""OpenAI's batches: files of requests, each of which becomes a job of low priority."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, Response

from web import auth
from web.endpoints import endpoint
from web.json_body import from_body
from web.openai.batches.bodies import BatchBody, BatchListBody, BatchParameters, batch_body
from web.parameters import BatchListQuery, IdempotencyKey, from_query
from web.render import json_response
from web.services import services

bp = Blueprint("batches", __name__, url_prefix="/v1/batches")

NO_BATCH = {404: "no such batch of yours"}


@bp.post("")
@endpoint(
    "Run the requests of a file",
    {
        200: "the batch; its requests are validated next",
        404: "no such file of yours",
        429: "your jobs and files use up your share of the memory",
        503: "nothing was accepted",
    },
    gives=BatchBody,
)
def create(body: Annotated[BatchParameters, from_body], key: IdempotencyKey) -> Response:
    made = services().batches.create(
        auth.owner(),
        body.input_file_id,
        body.endpoint,
        body.completion_window,
        body.metadata,
        body.output_expires_after.seconds if body.output_expires_after else None,
        key,
    )
    services().feeder.wake()
    return json_response(batch_body(made))


@bp.get("")
@endpoint("List your batches", {200: "a page"}, gives=BatchListBody)
def list_batches(query: Annotated[BatchListQuery, from_query]) -> Response:
    batches, has_more = services().batches.list_batches(auth.owner(), query.limit, query.after)
    data = [batch_body(batch) for batch in batches]
    body: BatchListBody = {
        "object": "list",
        "data": data,
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
    return json_response(body)


@bp.get("/<batch_id>")
@endpoint("A batch", {200: "the batch", **NO_BATCH}, gives=BatchBody)
def batch(batch_id: str) -> Response:
    return json_response(batch_body(services().batches.get(batch_id, auth.owner())))


@bp.post("/<batch_id>/cancel")
@endpoint(
    "Cancel a batch",
    {200: "the batch, which is about to end", 409: "it has ended in another way", **NO_BATCH},
    gives=BatchBody,
)
def cancel(batch_id: str) -> Response:
    cancelled = services().batches.cancel(batch_id, auth.owner())
    services().feeder.wake()
    return json_response(batch_body(cancelled))
