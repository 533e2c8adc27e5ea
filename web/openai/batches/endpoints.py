"""The routes that lines of a batch may name: how a line becomes jobs, and ended jobs become its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import FieldError, InvalidRequestError
from tasks.job import Job, Origin, Status
from tasks.request import JobRequest, Priority
from web.calls import JobFailedError
from web.json_body import validated
from web.openai.bodies import chat_completion, completion
from web.openai.chat_parameters import ChatParameters
from web.openai.errors import INPUT, MESSAGES, PROMPT, error_body, status_of
from web.openai.parameters import TEXT_API, CompletionParameters
from web.openai.responses.bodies import response
from web.openai.responses.parameters import ResponseParameters


@dataclass(frozen=True, slots=True)
class BatchEndpoint:
    """A route.

    prompt_field: the field of a body that has the prompt.
    jobs: returns the jobs of a body, and their origin. Raises InvalidRequestError.
    render: returns the route's answer for its jobs, which have completed.
    """

    prompt_field: str
    jobs: Callable[[Any], tuple[list[JobRequest], Origin]]
    render: Callable[[Sequence[Job]], Mapping[str, Any]]


def _completion_jobs(body: Any) -> tuple[list[JobRequest], Origin]:
    parameters = validated(CompletionParameters, body)
    jobs = parameters.jobs()
    return jobs, {"api": TEXT_API, "prompts": len(jobs)}


def _chat_jobs(body: Any) -> tuple[list[JobRequest], Origin]:
    parameters = validated(ChatParameters, body)
    return [parameters.job()], parameters.origin


def _chat_body(jobs: Sequence[Job]) -> Mapping[str, Any]:
    return chat_completion(jobs[0])


def _response_jobs(body: Any) -> tuple[list[JobRequest], Origin]:
    parameters = validated(ResponseParameters, body)
    for field in ("background", "previous_response_id"):
        if getattr(parameters, field):
            raise InvalidRequestError([FieldError(field, "is not accepted in a batch")])
    return [parameters.job([])], parameters.origin([])


def _response_body(jobs: Sequence[Job]) -> Mapping[str, Any]:
    return response(jobs[0])


ENDPOINTS: Mapping[str, BatchEndpoint] = {
    "/v1/completions": BatchEndpoint(PROMPT, _completion_jobs, completion),
    "/v1/chat/completions": BatchEndpoint(MESSAGES, _chat_jobs, _chat_body),
    "/v1/responses": BatchEndpoint(INPUT, _response_jobs, _response_body),
}
"""Another route needs a line here, and its name in the type of `endpoint` in `bodies.py`."""


def jobs_of(endpoint: str, body: Any) -> tuple[list[JobRequest], Origin]:
    """Returns the jobs that a line's body stands for, and their origin. Raises InvalidRequestError."""
    given = body if isinstance(body, dict) else {}
    if given.get("stream"):
        raise InvalidRequestError([FieldError("stream", "is not accepted in a batch")])
    if given.get("priority") not in (None, Priority.LOW):
        raise InvalidRequestError([FieldError("priority", "must be low in a batch")])
    jobs, origin = ENDPOINTS[endpoint].jobs(body)
    return [job.model_copy(update={"priority": Priority.LOW}) for job in jobs], origin


def answer_of(endpoint: str, jobs: Sequence[Job]) -> tuple[int, Mapping[str, Any]]:
    """Returns the HTTP status and the body with which the route answers for jobs that have ended."""
    for job in jobs:
        if job.status is not Status.COMPLETED:
            return refusal_of(endpoint, JobFailedError(job))
    return 200, ENDPOINTS[endpoint].render(jobs)


def refusal_of(endpoint: str, error: Any) -> tuple[int, Mapping[str, Any]]:
    """Returns the HTTP status and the body of an error of ours (TokenrelayError)."""
    fields = error.errors if isinstance(error, InvalidRequestError) else ()
    param = fields[0].field if fields else None
    body = error_body(error.status, error.code, error.detail, param, ENDPOINTS[endpoint].prompt_field)
    return status_of(error.status), body
