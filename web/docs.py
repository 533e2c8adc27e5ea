"""`/openapi.json` and `/docs`, from the models that check the requests and one table of routes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, render_template
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tasks.request import JobRequest
from web.demo import MAX_IDS_IN_HEADER, PromptBody, PromptsBody
from web.render import json_response
from web.schema import ListQuery, StreamQuery, WaitQuery
from web.site import CONTENT_SECURITY_POLICY

SCHEMAS = "#/components/schemas/"
PROBLEM_STATUSES = {400, 401, 404, 405, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504}

bp = Blueprint("docs", __name__)


@dataclass(frozen=True, slots=True)
class Route:
    """`answers`: status -> what it means; those of PROBLEM_STATUSES are problems."""

    method: str
    path: str
    summary: str
    answers: Mapping[int, str]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content: str = "application/json"
    needs_key: bool = True


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
TEXTS = (
    '`{"generated_texts"}`; X-Job-ID names the jobs, or with more than '
    f"{MAX_IDS_IN_HEADER} prompts the first of them, and `job_ids` in the body names all"
)
NO_JOB = {404: "no such job of yours"}
TOO_MANY = {429: "the key holds too many streams and waiting calls"}
JOB = "/v1/jobs/{job_id}"

ROUTES = (
    Route(
        "post", "/v1/jobs", "Submit a job", {**SUBMITTED, **BODY_REFUSED}, JobRequest, None, SUBMIT_HEADERS
    ),
    Route("get", "/v1/jobs", "List your jobs, newest first", {200: "a page"}, query=ListQuery),
    Route(
        "get", JOB, "A job now, or when it has ended", {200: "the job", **NO_JOB, **TOO_MANY}, query=WaitQuery
    ),
    Route("delete", JOB, "Delete an ended job", {204: "gone", 409: "it has not ended", **NO_JOB}),
    Route("post", f"{JOB}/cancel", "Cancel a job", {200: "the job", **NO_JOB}),
    Route(
        "post",
        f"{JOB}/retry",
        "Run an ended job that did not complete again, as a new one",
        {**SUBMITTED, **REFUSED, 409: "it has not ended, or it completed", **NO_JOB},
        headers=SUBMIT_HEADERS,
    ),
    Route("post", f"{JOB}/ticket", "A ticket for `?ticket=` on the streams", {200: "a ticket", **NO_JOB}),
    Route(
        "get",
        f"{JOB}/events",
        "The job's events as Server-Sent Events",
        {
            200: "events, to the end of the job",
            204: "it has ended, with nothing after that",
            **NO_JOB,
            **TOO_MANY,
        },
        query=StreamQuery,
        headers={"Last-Event-ID": "resume after this event"},
        content="text/event-stream",
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
    ),
    Route("get", "/v1/models", "The models that jobs can ask for, and who serves them", {200: "all of them"}),
    Route("get", "/v1/models/{model_id}", "A model", {200: "the model", 404: "no worker ever announced it"}),
    Route(
        "post",
        "/basic_generate",
        "One prompt, greedily",
        {
            200: '`{"generated_text"}`',
            **NOT_AWAITED,
            502: "the job failed",
            504: "it took too long",
            **BODY_REFUSED,
        },
        PromptBody,
        headers=IDEMPOTENCY,
    ),
    Route(
        "post",
        "/generate",
        "Several prompts",
        {
            200: TEXTS,
            **NOT_AWAITED,
            502: "a job failed",
            504: "one took too long",
            **BODY_REFUSED,
        },
        PromptsBody,
        headers=IDEMPOTENCY,
    ),
    Route(
        "post",
        "/generate_vllm",
        "Several prompts, on vLLM workers only",
        {
            200: TEXTS,
            **NOT_AWAITED,
            502: "a job failed",
            504: "one took too long",
            **BODY_REFUSED,
        },
        PromptsBody,
        headers=IDEMPOTENCY,
    ),
    Route(
        "post",
        "/generate_stream",
        "One prompt as a stream of tokens",
        {200: '`data: {"token"}` … `data: [DONE]`', **BODY_REFUSED},
        PromptBody,
        headers=IDEMPOTENCY,
        content="text/event-stream",
    ),
    Route("get", "/health", "Jobs by status and the live workers", {200: "the numbers"}),
    Route("get", "/health/live", "The process is up", {200: "yes"}, needs_key=False),
    Route("get", "/health/web", "Jobs can be accepted", {200: "yes", 503: "no, and why"}, needs_key=False),
    Route("get", "/health/ready", "Jobs can run", {200: "yes", 503: "no, and why"}, needs_key=False),
)


@bp.get("/openapi.json")
def document() -> Response:
    return json_response(openapi())


@bp.get("/docs")
def page() -> Response:
    response = Response(render_template("docs.html", routes=ROUTES, phrase=_phrase))
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    models = {model for route in ROUTES for model in (route.body, route.query) if model}
    _, generated = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template=SCHEMAS + "{model}",
    )
    schemas = {**generated["$defs"], "Problem": PROBLEM}
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tokenrelay", "version": "1", "description": "An asynchronous job API for LLMs."},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


PROBLEM = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail", "instance", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}


def _operation(route: Route, schemas: Mapping[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{route.method}{route.path}").strip("_"),
        "parameters": _parameters(route, schemas),
        "responses": {str(status): _answer(route, status) for status in route.answers},
        "security": [{"key": []}] if route.needs_key else [],
    }
    if route.body:
        schema = {"$ref": SCHEMAS + route.body.__name__}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _parameters(route: Route, schemas: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    if route.query:
        properties = schemas[route.query.__name__]["properties"]
        found += [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]
    for name, description in route.headers.items():
        found.append({"name": name, "in": "header", "description": description, "schema": {"type": "string"}})
    return found


def _answer(route: Route, status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": route.answers[status]}
    if status in PROBLEM_STATUSES:
        answer["content"] = {"application/problem+json": {"schema": {"$ref": SCHEMAS + "Problem"}}}
    elif status not in (101, 204):
        answer["content"] = {route.content: {}}
    return answer


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase
