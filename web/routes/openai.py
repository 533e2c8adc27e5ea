"""OpenAI's completions and chat completions. Each prompt becomes a job in the same queue as all others.

A client that leaves a call cancels its jobs; a stream may be resumed for a few seconds before.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from flask import Blueprint, Response, request

from tasks.errors import JobNotFoundError
from tasks.job import Job
from web import auth, calls
from web.answers import NotAwaitedBody
from web.endpoints import EVENT_STREAM, NO_JOB, QUEUE_REFUSALS, TOO_MANY_STREAMS, endpoint
from web.json_body import from_body
from web.openai import streams
from web.openai.bodies import (
    ChatCompletionBody,
    CompletionBody,
    DeletedBody,
    chat_completion,
    completion,
)
from web.openai.chat_parameters import ChatParameters
from web.openai.chunk_bodies import ChatChunk, TextChunk
from web.openai.chunks import ChatChunks, Chunks, TextChunks
from web.openai.errors import models_not_found
from web.openai.ids import CHAT, TEXT, job_id_of
from web.openai.parameters import CHAT_API, TEXT_API, CompletionParameters, StreamOptions
from web.openai.streams import Completion
from web.parameters import CompletionQuery, CompletionStreamParameters, IdempotencyKey
from web.relay import sse
from web.render import json_response
from web.services import services

completions = Blueprint(TEXT_API, __name__, url_prefix="/v1/completions")
chat = Blueprint("chat", __name__, url_prefix="/v1/chat")

CREATED = {
    200: "the completion, or with `stream` its chunks and then `[DONE]`; X-Job-ID names its jobs",
    202: "accepted, but then Redis could not be reached: `Location` and `jobs` say where to ask",
    404: "no worker ever announced this model",
    409: "the job was cancelled",
    502: "the job failed",
    504: "it took too long",
    **QUEUE_REFUSALS,
}
STORED = {
    200: "the completion once it has ended, or its chunks",
    204: "it has ended, with nothing after that",
    409: "the job was cancelled",
    502: "the job failed",
    504: "it took too long",
    **NO_JOB,
    **TOO_MANY_STREAMS,
}


@completions.post("")
@endpoint(
    "Complete one prompt, or several",
    CREATED,
    gives=CompletionBody,
    gives_else={202: NotAwaitedBody},
    streams=TextChunk,
)
def complete(body: Annotated[CompletionParameters, from_body], key: IdempotencyKey) -> Response:
    jobs = body.jobs()
    origin = {"api": TEXT_API, "prompts": len(jobs)}
    with models_not_found():
        if body.stream:
            with streams.place() as until_closed:
                call = calls.submit(jobs, key, origin)
                return streams.start(call, TextChunks, body.streamed, until_closed)
        return calls.answer(jobs, key, completion, origin)


@completions.get("/<completion_id>")
@endpoint("A completion of one prompt", STORED, gives=CompletionBody, streams=TextChunk)
def text(completion_id: str, query: CompletionStreamParameters) -> Response:
    job = _job(TEXT, completion_id, TEXT_API)
    if query.is_stream:
        return _stream(job, TextChunks, query)
    return calls.answer_again([job.id], completion)


@chat.post("/completions")
@endpoint(
    "Answer a conversation",
    CREATED,
    gives=ChatCompletionBody,
    gives_else={202: NotAwaitedBody},
    streams=ChatChunk,
)
def answer(body: Annotated[ChatParameters, from_body], key: IdempotencyKey) -> Response:
    jobs, origin = [body.job()], body.origin
    with models_not_found():
        if body.stream:
            with streams.place() as until_closed:
                call = calls.submit(jobs, key, origin)
                return streams.start(call, ChatChunks, body.streamed, until_closed)
        return calls.answer(jobs, key, _chat_completion, origin)


@chat.get("/completions/<completion_id>")
@endpoint("A chat completion", STORED, gives=ChatCompletionBody, streams=ChatChunk)
def chat_answer(completion_id: str, query: CompletionStreamParameters) -> Response:
    job = _job(CHAT, completion_id, CHAT_API)
    if query.is_stream:
        return _stream(job, ChatChunks, query)
    return calls.answer_again([job.id], _chat_completion)


@chat.delete("/completions/<completion_id>")
@endpoint(
    "Delete a chat completion that has ended, and its job",
    {200: "gone", 409: "it has not ended", **NO_JOB},
    gives=DeletedBody,
)
def delete(completion_id: str) -> Response:
    job = _job(CHAT, completion_id, CHAT_API)
    services().store.delete(job.id, auth.owner())
    body: DeletedBody = {"id": completion_id, "object": "chat.completion.deleted", "deleted": True}
    return json_response(body)


def _chat_completion(jobs: list[Job]) -> ChatCompletionBody:
    return chat_completion(jobs[0])


def _job(prefix: str, completion_id: str, api: str) -> Job:
    """Returns the job of a completion of one prompt. Raises JobNotFoundError."""
    job_id = job_id_of(prefix, completion_id)
    if job_id is not None:
        with suppress(JobNotFoundError):
            job = services().store.get(job_id, auth.owner())
            origin = job.origin or {}
            if origin.get("api") == api and origin.get("prompts", 1) == 1:
                return job
    kind = "chat completion" if prefix == CHAT else "completion of one prompt"
    raise JobNotFoundError(f"there is no {kind} {completion_id}")


def _stream(job: Job, kind: type[Chunks], query: CompletionQuery) -> Response:
    header = services().log.header(job.id, auth.owner())
    if header.has_nothing_after(query.after):
        return Response(status=204)
    if request.method == "HEAD":
        return Response(mimetype=EVENT_STREAM, headers=sse.HEADERS)
    options = StreamOptions(include_usage=query.include_usage)
    with streams.place() as until_closed:
        return streams.stream(Completion([job], kind, options, query.after), until_closed)
