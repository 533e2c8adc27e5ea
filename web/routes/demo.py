"""The routes of the demo that this product grew from, as jobs: synchronous, or a plain stream of tokens.

A client that leaves cancels the jobs that its request made.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.exceptions import RedisError

from tasks.connection import is_away
from tasks.errors import InvalidRequestError, JobNotFoundError, TokenrelayError, UnavailableError
from tasks.job import Job, Status
from tasks.log import TokenEntry
from tasks.request import JobRequest, field_errors, parse_request
from tasks.settings import EngineKind
from tasks.store import Store
from web import auth, error_responses, parameters
from web.answers import (
    DemoFailure,
    DemoToken,
    GeneratedTextBody,
    GeneratedTextsBody,
    NotAwaitedBody,
)
from web.json_body import read_json
from web.relay.events import Event
from web.render import json_response, to_json
from web.services import base_url, services
from web.streaming import held_until_closed, sse_response
from web.waiting import make_reader, wait_for_all

MAX_PROMPTS = 256
"""Each is a job of its own."""

MAX_IDS_IN_HEADER = 64
"""In X-Job-ID, 2 KiB of them. By default nginx takes 4 KiB of headers, and answers 502 to more."""

VLLM_RETRY_SECONDS = 10

STATUS_BY_ERROR_CODE = {"prompt_too_long": 422, "timeout": 504, "expired": 504, "model_not_available": 503}
"""HTTP statuses for a job's error codes; the others are 502: the worker's fault, not this server's."""

CLIENT_LEFT = 499
"""nginx's status for logs; there is nobody to read it."""

logger = logging.getLogger(__name__)

bp = Blueprint("demo", __name__)


Texts = list[str]
Body = TypeVar("Body", bound=BaseModel)


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    max_tokens: int | None = Field(None, description="as in a job")
    temperature: float | None = Field(None, description="as in a job")

    def job_request(self, prompt: str, **defaults: Any) -> JobRequest:
        """Raises InvalidRequestError."""
        given = self.model_dump(include={"max_tokens", "temperature"}, exclude_none=True)
        return parse_request({"prompt": prompt, **defaults, **given})


class PromptBody(_Options):
    prompt: str = Field(min_length=1, description="the text to continue", examples=["Once upon a time"])


class PromptsBody(_Options):
    prompts: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1,
        max_length=MAX_PROMPTS,
        description="the texts to continue, each as a job of its own",
        examples=[["Once upon a time", "One day"]],
    )


class JobFailedError(TokenrelayError):
    """The job did not complete."""

    title = "Job not completed"

    def __init__(self, job: Job) -> None:
        self.code = job.error.code if job.error else str(job.status)
        self.status = 409 if job.status is Status.CANCELLED else STATUS_BY_ERROR_CODE.get(self.code, 502)
        super().__init__(f"{job.id}: {job.error.message if job.error else f'the job was {job.status}'}")


@bp.post("/basic_generate")
def basic_generate() -> Response:
    body = _parse(PromptBody)
    return _answer([body.job_request(body.prompt, temperature=0)], _generated_text)


@bp.post("/generate")
def generate() -> Response:
    body = _parse(PromptsBody)
    return _answer([body.job_request(prompt) for prompt in body.prompts], _generated_texts)


@bp.post("/generate_vllm")
def generate_vllm() -> Response:
    body = _parse(PromptsBody)
    options = {"model": _vllm_model(), "engine": EngineKind.VLLM}
    return _answer([body.job_request(prompt, **options) for prompt in body.prompts], _generated_texts)


@bp.post("/generate_stream")
def generate_stream() -> Response:
    body = _parse(PromptBody)
    with held_until_closed(services().streams.hold(auth.owner())) as until_closed:
        jobs = _submit([body.job_request(body.prompt)])
        reader = make_reader(jobs.ids[0], survives_shutdown=True)
        response = until_closed(sse_response(reader, token_message))
    # Without effect where the job has ended, as it has unless the client left first.
    response.call_on_close(jobs.cancel)
    return jobs.named_in(response)


class _Jobs:
    """The jobs of one request."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._created: list[str] = []
        self.ids: list[str] = []

    def submit(self, requests: Sequence[JobRequest], owner: str, key: str | None) -> None:
        """All of them or none. Raises what Store.submit raises."""
        submissions = self._store.submit_all(requests, owner, key)
        self.ids = [submission.job_id for submission in submissions]
        self._created = [submission.job_id for submission in submissions if submission.created]

    def results(self) -> Texts:
        """Raises JobFailedError for the first job that did not complete."""
        ended = [self._store.get(job_id) for job_id in self.ids]
        for job in ended:
            if job.status is not Status.COMPLETED:
                raise JobFailedError(job)
        return [job.output[0].text for job in ended]

    def cancel(self) -> None:
        """Those that this request made: another client may wait for the others."""
        for job_id in self._created:
            with suppress(RedisError, JobNotFoundError):  # It ends by itself, when its tokens are used up.
                self._store.cancel(job_id)

    def not_awaited(self) -> Response:
        """They are stored, and their ends cannot be told: where to ask for them."""
        urls = [f"{base_url()}/v1/jobs/{job_id}" for job_id in self.ids]
        detail = "Redis cannot be reached at present; the jobs were accepted and will end"
        body: NotAwaitedBody = {"detail": detail, "jobs": urls}
        response = json_response(body, 202)
        response.headers["Location"] = urls[0]
        return response

    def named_in(self, response: Response) -> Response:
        """Names the jobs in X-Job-ID, or the first of many; then the body names all of them, as `job_ids`."""
        response.headers["X-Job-ID"] = ",".join(self.ids[:MAX_IDS_IN_HEADER])
        if len(self.ids) > MAX_IDS_IN_HEADER:
            response.set_data(to_json({**json.loads(response.get_data()), "job_ids": self.ids}))
        return response


def _parse(model: type[Body]) -> Body:
    try:
        return model.model_validate(read_json())
    except ValidationError as error:
        raise InvalidRequestError(field_errors(error)) from None


def _submit(requests: Sequence[JobRequest]) -> _Jobs:
    jobs = _Jobs(services().store)
    jobs.submit(requests, auth.owner(), parameters.idempotency_key())
    return jobs


def _answer(requests: Sequence[JobRequest], render: Callable[[Texts], object]) -> Response:
    """Run the jobs and answer with their texts, or with what kept the first one from completing."""
    with services().streams.hold(auth.owner()):
        return _run(requests, render)


def _run(requests: Sequence[JobRequest], render: Callable[[Texts], object]) -> Response:
    jobs = _submit(requests)
    try:
        if not wait_for_all(jobs.ids):
            jobs.cancel()
            return Response(status=CLIENT_LEFT)
        response = json_response(render(jobs.results()))
    except TokenrelayError as error:
        jobs.cancel()
        response = error_responses.error_response(error)
    except RedisError as error:
        if not is_away(error):
            raise
        logger.warning("%s: accepted, and Redis cannot be reached any more: %s", ", ".join(jobs.ids), error)
        response = jobs.not_awaited()
    return jobs.named_in(response)


def _generated_text(texts: Texts) -> GeneratedTextBody:
    return {"generated_text": texts[0]}


def _generated_texts(texts: Texts) -> GeneratedTextsBody:
    return {"generated_texts": texts}


def _vllm_model() -> str:
    """This server's own model where a live vLLM worker has it, else one that such a worker has."""
    workers = services().store.workers()
    models = sorted({str(worker["model"]) for worker in workers if worker["engine"] == EngineKind.VLLM})
    if not models:
        raise UnavailableError("no vLLM worker is alive", retry_after=VLLM_RETRY_SECONDS)
    own = services().settings.model
    return own if own in models else models[0]


def token_message(event: Event) -> bytes:
    """Returns nothing for an event that the demo's clients do not know."""
    data = _token_data(event)
    return f"data: {data}\n\n".encode() if data else b""


def _token_data(event: Event) -> str | None:
    if isinstance(event.entry, TokenEntry) and event.entry.text:
        token: DemoToken = {"token": event.entry.text}
        return to_json(token)
    if event.job is None:
        return None
    return "[DONE]" if event.job.status is Status.COMPLETED else to_json(_failure(event.job))


def _failure(job: Job) -> DemoFailure:
    if job.error is None:
        return {"error": {"code": str(job.status), "message": f"the job was {job.status}"}}
    return {"error": {"code": job.error.code, "message": job.error.message}}
