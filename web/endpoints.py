"""What a view gets from its request and what it answers: written once, beside the view.

`@endpoint(...)` reads the view's arguments and describes the route for `/openapi.json`. An argument that
comes from the request is annotated with an Input, which says how it is read, refused and described:

    @bp.get("")
    @endpoint("List your jobs", {200: "a page"}, gives=JobListBody)
    def list_jobs(query: Annotated[ListQuery, from_query]) -> Response:

Path and methods come from Flask's own table of routes, so that nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel

R = TypeVar("R")

JSON, EVENT_STREAM = "application/json", "text/event-stream"

QUEUE_REFUSALS = {
    429: "the queue is full; with the code `too_many_streams`, the key has too many streams and "
    "waiting calls",
    503: "nothing was accepted; with the code `outcome_unknown`, the job may have been accepted",
}
BAD_FIELD = {422: "names each bad field"}
NO_JOB = {404: "no such job of yours"}
TOO_MANY_STREAMS = {429: "the key has too many streams and waiting calls"}

_ATTRIBUTE = "described_endpoint"


@dataclass(frozen=True, slots=True)
class Input:
    """Something that a view gets from its request.

    read: returns the value, or raises TokenrelayError.
    query, body: the models that `read` validates with.
    form: the model of a form, for the documentation.
    headers: the headers that `read` looks at, with their meanings.
    refusals: status -> meaning, for the errors of `read`.
    """

    read: Callable[[], Any]
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    form: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A view as clients see it.

    inputs: by argument, in the order in which they are read.
    answers: status -> meaning, without the refusals of the inputs.
    gives: the type of each answer with a body that is no error, except those in `gives_else` (by status).
    streams: the type of each event, if a 200 may also be a stream.
    """

    summary: str
    answers: Mapping[int, str]
    gives: Any
    gives_else: Mapping[int, Any]
    streams: Any
    content: str
    inputs: Mapping[str, Input]

    @property
    def query(self) -> list[type[BaseModel]]:
        return [given.query for given in self.inputs.values() if given.query]

    @property
    def body(self) -> type[BaseModel] | None:
        return next((given.body for given in self.inputs.values() if given.body), None)

    @property
    def form(self) -> type[BaseModel] | None:
        return next((given.form for given in self.inputs.values() if given.form), None)

    @property
    def headers(self) -> dict[str, str]:
        return {name: text for given in self.inputs.values() for name, text in given.headers.items()}

    @property
    def refusals(self) -> dict[int, str]:
        return {status: text for given in self.inputs.values() for status, text in given.refusals.items()}


def endpoint(
    summary: str,
    answers: Mapping[int, str],
    *,
    gives: Any = None,
    gives_else: Mapping[int, Any] | None = None,
    streams: Any = None,
    content: str = JSON,
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Describes a view, and gives it its inputs as keyword arguments, read in the order of its signature."""

    def decorate(view: Callable[..., R]) -> Callable[..., R]:
        inputs = _inputs(view)
        readers = [(name, given.read) for name, given in inputs.items()]

        @wraps(view)
        def with_inputs(*args: Any, **kwargs: Any) -> R:
            for name, read in readers:
                kwargs[name] = read()
            return view(*args, **kwargs)

        described = Endpoint(summary, answers, gives, gives_else or {}, streams, content, inputs)
        setattr(with_inputs, _ATTRIBUTE, described)
        return with_inputs

    return decorate


def endpoint_of(view: Callable[..., Any]) -> Endpoint | None:
    """Returns the description of a view, also through decorators that use functools.wraps."""
    found: Endpoint | None = getattr(view, _ATTRIBUTE, None)
    return found


def _inputs(view: Callable[..., Any]) -> dict[str, Input]:
    """Returns the view's inputs. An annotation has an Input, or a function from the type to one."""
    found: dict[str, Input] = {}
    for name, hint in get_type_hints(view, include_extras=True).items():
        for mark in getattr(hint, "__metadata__", ()):
            if isinstance(mark, Input):
                found[name] = mark
            elif callable(mark):
                found[name] = mark(hint.__origin__)
    return found
