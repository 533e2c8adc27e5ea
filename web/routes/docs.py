"""`/openapi.json` and `/docs`: one table of routes; `web.openapi` makes the document from it."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, render_template
from markupsafe import Markup

from tasks.request import JobRequest
from web.answers import (
    DemoEvent,
    EventBody,
    GeneratedTextBody,
    GeneratedTextsBody,
    HealthBody,
    JobBody,
    JobListBody,
    ModelBody,
    ModelListBody,
    NotAwaitedBody,
    ProbeBody,
    TicketBody,
)
from web.openapi import SCHEMAS, Route, make_document
from web.parameters import ListQuery, StreamQuery, WaitQuery
from web.render import json_response
from web.routes.demo import MAX_IDS_IN_HEADER, PromptBody, PromptsBody
from web.routes.site import CONTENT_SECURITY_POLICY

bp = Blueprint("docs", __name__)

IDEMPOTENCY = {"Idempotency-Key": "the same key and body bring the same job"}
SUBMIT_HEADERS = {**IDEMPOTENCY, "Prefer": "`wait=N` holds the reply until the job has ended, at most 60 s"}
SUBMITTED = {202: "a new job", 200: "the job has ended, or an earlier one came back"}
REFUSED = {
    422: "names each bad field",
    429: "the queue is full, or with `too_many_streams` the key holds too many streams and waiting calls",
    503: "nothing was accepted; with the code `outcome_unknown` it may have been",
}
BODY_REFUSED = {
    400: "not JSON",
    408: "the body did not come in time",
    413: "over 1 MiB",
    415: "not application/json",
    **REFUSED,
}
NOT_AWAITED = {202: "accepted, but Redis went away: `Location` and `jobs` say where to ask"}
TEXTS = f"the continuations; X-Job-ID names the first {MAX_IDS_IN_HEADER} jobs, in the order of their prompts"
BAD_QUERY = {422: "names each bad parameter"}
NO_JOB = {404: "no such job of yours"}
TOO_MANY = {429: "the key holds too many streams and waiting calls"}
JOB = "/v1/jobs/{job_id}"

ROUTES = (
    Route(
        "post",
        "/v1/jobs",
        "Submit a job",
        {**SUBMITTED, **BODY_REFUSED},
        JobRequest,
        headers=SUBMIT_HEADERS,
        gives=JobBody,
    ),
    Route(
        "get",
        "/v1/jobs",
        "List your jobs, newest first",
        {200: "a page", **BAD_QUERY},
        query=ListQuery,
        gives=JobListBody,
    ),
    Route(
        "get",
        JOB,
        "A job now, or when it has ended",
        {200: "the job", **NO_JOB, **BAD_QUERY, **TOO_MANY},
        query=WaitQuery,
        gives=JobBody,
    ),
    Route("delete", JOB, "Delete an ended job", {204: "gone", 409: "it has not ended", **NO_JOB}),
    Route("post", f"{JOB}/cancel", "Cancel a job", {200: "the job", **NO_JOB}, gives=JobBody),
    Route(
        "post",
        f"{JOB}/retry",
        "Run an ended job that did not complete again, as a new one",
        {**SUBMITTED, **REFUSED, 409: "it has not ended, or it completed", **NO_JOB},
        headers=SUBMIT_HEADERS,
        gives=JobBody,
    ),
    Route(
        "post",
        f"{JOB}/ticket",
        "A ticket for `?ticket=` on the streams",
        {200: "a ticket", **NO_JOB},
        gives=TicketBody,
    ),
    Route(
        "get",
        f"{JOB}/events",
        "The job's events as Server-Sent Events",
        {
            200: "events, to the end of the job",
            204: "it has ended, with nothing after that",
            **NO_JOB,
            **BAD_QUERY,
            **TOO_MANY,
        },
        query=StreamQuery,
        headers={"Last-Event-ID": "resume after this event"},
        content="text/event-stream",
        gives=EventBody,
    ),
    Route(
        "get",
        f"{JOB}/stream",
        "The same events over a WebSocket, one JSON text frame each",
        {
            101: "closes with 1000 after `done`, 4400 bad `after` or `done`, 4401 not authorised, 4404 no "
            "such job, 4429 too many streams, 1001 server going away, 1008 reader too slow",
            400: "not a WebSocket handshake",
            403: "a page from elsewhere, while the server has no API keys",
        },
        query=StreamQuery,
        gives=EventBody,
    ),
    Route(
        "get",
        "/v1/models",
        "The models that jobs can ask for, and who serves them",
        {200: "all of them"},
        gives=ModelListBody,
    ),
    Route(
        "get",
        "/v1/models/{model_id}",
        "A model",
        {200: "the model", 404: "no worker ever announced it"},
        gives=ModelBody,
    ),
    Route(
        "post",
        "/basic_generate",
        "One prompt, greedily",
        {
            200: "the continuation",
            **NOT_AWAITED,
            502: "the job failed",
            504: "it took too long",
            **BODY_REFUSED,
        },
        PromptBody,
        headers=IDEMPOTENCY,
        gives=GeneratedTextBody,
        gives_else={202: NotAwaitedBody},
    ),
    Route(
        "post",
        "/generate",
        "Several prompts",
        {200: TEXTS, **NOT_AWAITED, 502: "a job failed", 504: "one took too long", **BODY_REFUSED},
        PromptsBody,
        headers=IDEMPOTENCY,
        gives=GeneratedTextsBody,
        gives_else={202: NotAwaitedBody},
    ),
    Route(
        "post",
        "/generate_vllm",
        "Several prompts, on vLLM workers only",
        {200: TEXTS, **NOT_AWAITED, 502: "a job failed", 504: "one took too long", **BODY_REFUSED},
        PromptsBody,
        headers=IDEMPOTENCY,
        gives=GeneratedTextsBody,
        gives_else={202: NotAwaitedBody},
    ),
    Route(
        "post",
        "/generate_stream",
        "One prompt as a stream of tokens",
        {200: "tokens, then `data: [DONE]`", **BODY_REFUSED},
        PromptBody,
        headers=IDEMPOTENCY,
        content="text/event-stream",
        gives=DemoEvent,
    ),
    Route("get", "/health", "Jobs by status and the live workers", {200: "the numbers"}, gives=HealthBody),
    Route("get", "/health/live", "The process is up", {200: "yes"}, needs_key=False, gives=ProbeBody),
    Route(
        "get",
        "/health/web",
        "Jobs can be accepted",
        {200: "yes", 503: "no, and why"},
        needs_key=False,
        gives=ProbeBody,
    ),
    Route(
        "get",
        "/health/ready",
        "Jobs can run",
        {200: "yes", 503: "no, and why"},
        needs_key=False,
        gives=ProbeBody,
    ),
)


@bp.get("/openapi.json")
def document() -> Response:
    return json_response(openapi())


@bp.get("/docs")
def page() -> Response:
    html = render_template(
        "docs.html", document=openapi(), phrase=_phrase, prefix=SCHEMAS, bounds=_bounds, marked=_marked
    )
    response = Response(html)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


@cache
def openapi() -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document. It is made once per process, when it is first asked for."""
    return make_document(ROUTES)


def _phrase(status: str) -> str:
    return HTTPStatus(int(status)).phrase


def _marked(text: str) -> Markup:
    """A description with its `names` as code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts)
    )


BOUNDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "minLength": "length from {}",
    "maxLength": "length to {}",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "maxProperties": "at most {}",
}


def _bounds(schema: dict[str, Any]) -> str:
    """What a schema asks of a value beyond its type, in words."""
    return ", ".join(text.format(schema[name]) for name, text in BOUNDS.items() if name in schema)
