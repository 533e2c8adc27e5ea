"""The OpenAPI document, made from a table of routes, the models of requests and the types of answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from web.answers import EventBody, ProblemBody

SCHEMAS = "#/components/schemas/"

PROBLEM_STATUSES = {400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504}

NAMES: tuple[tuple[Any, str], ...] = ((EventBody, "Event"),)
"""Unions that get a schema of their own; models and typed dicts have one under their own name."""

STRING = {"type": "string"}
HEADERS_BY_STATUS: Mapping[int, Mapping[str, str]] = {
    202: {"Location": "the job"},
    401: {"WWW-Authenticate": "`Bearer`"},
    429: {"Retry-After": "seconds after which to try again"},
    503: {"Retry-After": "seconds after which to try again"},
}


@dataclass(frozen=True, slots=True)
class Route:
    """A route as clients see it.

    answers: status -> what it means; those of PROBLEM_STATUSES are problems.
    gives: the type of every other answer that has a body, except those in `gives_else`, status -> type.
    """

    method: str
    path: str
    summary: str
    answers: Mapping[int, str]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content: str = "application/json"
    needs_key: bool = True
    gives: Any = None
    gives_else: Mapping[int, Any] = field(default_factory=dict)

    @property
    def all_answers(self) -> dict[int, str]:
        """`answers`, with those that every route has which needs a key and Redis."""
        common = {
            401: "the API key is missing or wrong",
            403: "without API keys: the Host header is not a name of this server, see ALLOWED_HOSTS",
            503: "Redis cannot be reached",
        }
        found = {**common, **self.answers} if self.needs_key else self.answers
        return {status: found[status] for status in sorted(found)}


def make_document(routes: Iterable[Route]) -> dict[str, Any]:
    """Returns the document in OpenAPI 3.1."""
    routes = tuple(routes)
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
    """The JSON schemas of all types that routes name."""

    def __init__(self, routes: Iterable[Route]) -> None:
        types: list[Any] = [ProblemBody, *(kind for kind, _ in NAMES)]
        for route in routes:
            named = (route.body, route.query, route.gives, *route.gives_else.values())
            types += [kind for kind in named if kind is not None]
        self._types = [kind for index, kind in enumerate(types) if kind not in types[:index]]
        inputs: list[tuple[int, Literal["validation"], TypeAdapter[Any]]] = [
            (number, "validation", TypeAdapter(kind)) for number, kind in enumerate(self._types)
        ]
        self._found, generated = TypeAdapter.json_schemas(inputs, ref_template=SCHEMAS + "{model}")
        unions = {name: self._found[self._types.index(kind), "validation"] for kind, name in NAMES}
        self._named: dict[str, Any] = {**generated["$defs"], **unions}
        # Their fields stand with the routes, as parameters.
        queries = {route.query.__name__ for route in routes if route.query}
        self.components = {name: schema for name, schema in self._named.items() if name not in queries}

    def parameters(self, query: type[BaseModel]) -> dict[str, Any]:
        """The schemas of a query's parameters by name."""
        return dict(self._named[query.__name__]["properties"])

    def of(self, kind: Any) -> dict[str, Any]:
        """A reference, or the whole schema where it has no name."""
        for named, name in NAMES:
            if kind == named:
                return {"$ref": SCHEMAS + name}
        return dict(self._found[self._types.index(kind), "validation"])


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    answers = route.all_answers
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{route.method}{route.path}").strip("_"),
        "parameters": _parameters(route, schemas),
        "responses": {str(status): _answer(route, status, answers[status], schemas) for status in answers},
        "security": [{"key": []}] if route.needs_key else [],
    }
    if route.body:
        content = {"application/json": {"schema": schemas.of(route.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(route: Route, schemas: _Schemas) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": STRING}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    if route.query:
        for name, schema in schemas.parameters(route.query).items():
            description = schema["description"]
            found.append({"name": name, "in": "query", "description": description, "schema": schema})
    for name, description in route.headers.items():
        found.append({"name": name, "in": "header", "description": description, "schema": STRING})
    return found


def _answer(route: Route, status: int, meaning: str, schemas: _Schemas) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": meaning}
    if status in HEADERS_BY_STATUS:
        headers = HEADERS_BY_STATUS[status].items()
        answer["headers"] = {name: {"description": text, "schema": STRING} for name, text in headers}
    if status in PROBLEM_STATUSES:
        answer["content"] = {"application/problem+json": {"schema": schemas.of(ProblemBody)}}
    elif (given := route.gives_else.get(status, route.gives)) is not None and status != 204:
        schema = schemas.of(given)
        if route.content == "text/event-stream":
            # OpenAPI 3.1 has no word for a stream. JSON Schema calls what a string holds its content.
            schema = {"type": "string", "description": "the `data` of each event", "contentSchema": schema}
        answer["content"] = {route.content: {"schema": schema}}
    return answer
