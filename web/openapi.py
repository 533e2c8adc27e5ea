"""The OpenAPI document, made from Flask's table of routes and the descriptions beside the views."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flask import Flask
from pydantic import BaseModel, TypeAdapter

from web.answers import EventBody
from web.auth import PUBLIC_ENDPOINTS
from web.endpoints import EVENT_STREAM, JSON, Endpoint, endpoint_of
from web.error_responses import ErrorShape, shape_of

SCHEMAS = "#/components/schemas/"

ERROR_STATUSES = {400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 422, 429, 500, 502, 503, 504}

NAMES: tuple[tuple[Any, str], ...] = ((EventBody, "Event"),)
"""Unions that get a schema of their own; models and typed dicts have one under their own name."""

STRING = {"type": "string"}
FORM = "multipart/form-data"
HEADERS_BY_STATUS: Mapping[int, Mapping[str, str]] = {
    202: {"Location": "the job"},
    401: {"WWW-Authenticate": "`Bearer`"},
    429: {"Retry-After": "seconds after which to try again"},
    503: {"Retry-After": "seconds after which to try again"},
}


COMMON_ANSWERS: Mapping[int, str] = {
    401: "the API key is missing or wrong",
    403: "without API keys: the Host header is not a name of this server, see ALLOWED_HOSTS",
    503: "Redis cannot be reached",
}
"""Answers of every route that needs a key and Redis: status -> meaning."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path of Flask's table of routes, with its view as clients see it."""

    method: str
    path: str
    is_websocket: bool
    needs_key: bool
    endpoint: Endpoint
    errors: ErrorShape

    @property
    def answers(self) -> dict[int, str]:
        """Returns status -> meaning."""
        common = COMMON_ANSWERS if self.needs_key else {}
        # A WebSocket is refused by a close code.
        refusals = {} if self.is_websocket else self.endpoint.refusals
        found: dict[int, list[str]] = {}
        for status, meaning in {**common, **refusals, **self.endpoint.answers}.items():
            found.setdefault(self.errors.status_of(status), []).append(meaning)
        return {status: "; ".join(found[status]) for status in sorted(found)}


def routes_of(app: Flask) -> list[Route]:
    """Returns the routes whose views are described, in the order in which they were registered."""
    found: list[Route] = []
    for rule in app.url_map.iter_rules():
        endpoint = endpoint_of(app.view_functions[rule.endpoint])
        if endpoint:
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
            needs_key = rule.endpoint not in PUBLIC_ENDPOINTS
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                errors = shape_of(app, rule.endpoint)
                found.append(Route(method.lower(), path, rule.websocket, needs_key, endpoint, errors))
    return found


def make_document(routes: Sequence[Route]) -> dict[str, Any]:
    """Returns the document in OpenAPI 3.1."""
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tokenrelay", "version": "1", "description": "An asynchronous job API for LLMs."},
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


class _Schemas:
    """The JSON schemas of all types that endpoints name."""

    def __init__(self, routes: Sequence[Route]) -> None:
        endpoints = [route.endpoint for route in routes]
        types: list[Any] = [*(route.errors.body for route in routes), *(kind for kind, _ in NAMES)]
        for endpoint in endpoints:
            given = (endpoint.gives, *endpoint.gives_else.values(), endpoint.streams)
            named = (endpoint.body, endpoint.form, *endpoint.query, *given)
            types += [kind for kind in named if kind is not None]
        self._types = [kind for index, kind in enumerate(types) if kind not in types[:index]]
        inputs: list[tuple[int, Literal["validation"], TypeAdapter[Any]]] = [
            (number, "validation", TypeAdapter(kind)) for number, kind in enumerate(self._types)
        ]
        self._found, generated = TypeAdapter.json_schemas(inputs, ref_template=SCHEMAS + "{model}")
        unions = {name: self._found[self._types.index(kind), "validation"] for kind, name in NAMES}
        self._named: dict[str, Any] = {**generated["$defs"], **unions}
        # Their fields are parameters of the routes.
        queries = {model.__name__ for endpoint in endpoints for model in endpoint.query}
        self.components = {name: schema for name, schema in self._named.items() if name not in queries}

    def parameters(self, query: type[BaseModel]) -> dict[str, Any]:
        """Returns the schemas of a query's parameters by name."""
        return dict(self._named[query.__name__]["properties"])

    def of(self, kind: Any) -> dict[str, Any]:
        """Returns a reference, or the whole schema if it has no name."""
        for named, name in NAMES:
            if kind == named:
                return {"$ref": SCHEMAS + name}
        return dict(self._found[self._types.index(kind), "validation"])


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    answers = route.answers
    operation: dict[str, Any] = {
        "summary": route.endpoint.summary,
        "operationId": re.sub(r"\W+", "_", f"{route.method}{route.path}").strip("_"),
        "parameters": _parameters(route, schemas),
        "responses": {str(status): _answer(route, status, answers[status], schemas) for status in answers},
        "security": [{"key": []}] if route.needs_key else [],
    }
    if route.endpoint.body:
        content = {JSON: {"schema": schemas.of(route.endpoint.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.endpoint.form:
        content = {FORM: {"schema": schemas.of(route.endpoint.form)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(route: Route, schemas: _Schemas) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": STRING}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    for model in route.endpoint.query:
        for name, schema in schemas.parameters(model).items():
            description = schema["description"]
            found.append({"name": name, "in": "query", "description": description, "schema": schema})
    for name, description in route.endpoint.headers.items():
        found.append({"name": name, "in": "header", "description": description, "schema": STRING})
    return found


def _answer(route: Route, status: int, meaning: str, schemas: _Schemas) -> dict[str, Any]:
    endpoint = route.endpoint
    answer: dict[str, Any] = {"description": meaning}
    if status in HEADERS_BY_STATUS:
        headers = HEADERS_BY_STATUS[status].items()
        answer["headers"] = {name: {"description": text, "schema": STRING} for name, text in headers}
    if status in ERROR_STATUSES:
        answer["content"] = {route.errors.media_type: {"schema": schemas.of(route.errors.body)}}
    elif (given := endpoint.gives_else.get(status, endpoint.gives)) is not None and status != 204:
        schema = schemas.of(given)
        answer["content"] = {
            endpoint.content: {"schema": _streamed(schema) if endpoint.content == EVENT_STREAM else schema}
        }
    if status == 200 and endpoint.streams is not None:
        answer["content"][EVENT_STREAM] = {"schema": _streamed(schemas.of(endpoint.streams))}
    return answer


def _streamed(event: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a stream. OpenAPI has none, but JSON Schema can describe a string's content."""
    return {"type": "string", "description": "the `data` of each event", "contentSchema": event}
