"""The routes of the demo that this product grew from: synchronous, or a plain stream of tokens.

Every prompt becomes a job. A client that leaves cancels the jobs that its request made.
"""

from __future__ import annotations

from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field

from tasks.errors import ModelNotAvailableError
from tasks.job import Job, Status
from tasks.log import TokenEntry
from tasks.request import JobRequest, parse_request
from tasks.settings import EngineKind
from web import auth, calls
from web.answers import (
    DemoEvent,
    DemoFailure,
    DemoToken,
    GeneratedTextBody,
    GeneratedTextsBody,
    NotAwaitedBody,
)
from web.calls import MAX_IDS_IN_HEADER
from web.endpoints import EVENT_STREAM, QUEUE_REFUSALS, endpoint
from web.json_body import from_body
from web.parameters import IdempotencyKey
from web.relay.events import Event
from web.render import to_json
from web.services import services
from web.streaming import held_until_closed, sse_response
from web.waiting import make_reader

MAX_PROMPTS = 256
"""The most prompts of a request. Each is a job of its own."""

VLLM_RETRY_SECONDS = 10

bp = Blueprint("demo", __name__)


NOT_AWAITED = {202: "accepted, but then Redis could not be reached: `Location` and `jobs` say where to ask"}
TEXTS = {
    200: f"the continuations; X-Job-ID names the first {MAX_IDS_IN_HEADER} jobs, in the order of the prompts",
    **NOT_AWAITED,
    502: "a job failed",
    504: "one took too long",
    **QUEUE_REFUSALS,
}


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    max_tokens: int | None = Field(None, description="tokens to generate, at least 1, as in a job")
    temperature: float | None = Field(None, description="0 to 2, as in a job")

    def job_request(self, prompt: str, **defaults: Any) -> JobRequest:
        """Returns the request of a job for a prompt. Raises InvalidRequestError."""
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


@bp.post("/basic_generate")
@endpoint(
    "One prompt, greedily",
    {
        200: "the continuation",
        **NOT_AWAITED,
        502: "the job failed",
        504: "it took too long",
        **QUEUE_REFUSALS,
    },
    gives=GeneratedTextBody,
    gives_else={202: NotAwaitedBody},
)
def basic_generate(body: Annotated[PromptBody, from_body], key: IdempotencyKey) -> Response:
    return calls.answer([body.job_request(body.prompt, temperature=0)], key, _generated_text)


@bp.post("/generate")
@endpoint("Several prompts", TEXTS, gives=GeneratedTextsBody, gives_else={202: NotAwaitedBody})
def generate(body: Annotated[PromptsBody, from_body], key: IdempotencyKey) -> Response:
    return calls.answer([body.job_request(prompt) for prompt in body.prompts], key, _generated_texts)


@bp.post("/generate_vllm")
@endpoint(
    "Several prompts, on vLLM workers only",
    TEXTS,
    gives=GeneratedTextsBody,
    gives_else={202: NotAwaitedBody},
)
def generate_vllm(body: Annotated[PromptsBody, from_body], key: IdempotencyKey) -> Response:
    options = {"model": _vllm_model(), "engine": EngineKind.VLLM}
    requests = [body.job_request(prompt, **options) for prompt in body.prompts]
    return calls.answer(requests, key, _generated_texts)


@bp.post("/generate_stream")
@endpoint(
    "One prompt as a stream of tokens",
    {200: "tokens, then `data: [DONE]`", **QUEUE_REFUSALS},
    gives=DemoEvent,
    content=EVENT_STREAM,
)
def generate_stream(body: Annotated[PromptBody, from_body], key: IdempotencyKey) -> Response:
    with held_until_closed(services().streams.hold(auth.owner())) as until_closed:
        jobs = calls.submit([body.job_request(body.prompt)], key)
        reader = make_reader(jobs.ids[0], survives_shutdown=True)
        response = until_closed(sse_response(reader, token_message))
    # A no-op if the job has ended; it has not if the client left first.
    response.call_on_close(jobs.cancel)
    return jobs.named_in(response)


def _generated_text(jobs: list[Job]) -> GeneratedTextBody:
    return {"generated_text": jobs[0].output[0].text}


def _generated_texts(jobs: list[Job]) -> GeneratedTextsBody:
    return {"generated_texts": [job.output[0].text for job in jobs]}


def _vllm_model() -> str:
    """Returns this server's own model if a live vLLM worker has it, else the model of such a worker."""
    workers = services().store.workers()
    models = sorted({str(worker["model"]) for worker in workers if worker["engine"] == EngineKind.VLLM})
    if not models:
        raise ModelNotAvailableError(
            "no vLLM worker is alive; nothing was accepted", retry_after=VLLM_RETRY_SECONDS
        )
    own = services().settings.model
    return own if own in models else models[0]


def token_message(event: Event) -> bytes:
    """Returns a message for the demo's clients; it is empty for an event that they do not know."""
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
