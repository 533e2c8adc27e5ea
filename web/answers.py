"""The shapes of answers that only the web server gives. The API's documentation is made from them."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from tasks.answers import (
    EndEvent,
    JobFields,
    JobSummaryBody,
    ShortJobFields,
    StatusEvent,
    Timestamp,
    TokenEvent,
    WorkerBody,
)
from tasks.job import Status


class UrlsBody(TypedDict):
    """Addresses for further requests about the job."""

    self: Annotated[str, Field(description="the job")]
    cancel: Annotated[str, Field(description="POST here to cancel it")]
    events: Annotated[str, Field(description="its events as Server-Sent Events")]
    stream: Annotated[str, Field(description="its events over a WebSocket")]


class JobBody(JobFields):
    """A job: its request, its progress, and its output so far."""

    urls: Annotated[UrlsBody, Field(description="addresses of the job, as its client reached the server")]


class ShortJobBody(ShortJobFields):
    """A job without its request and its output."""

    urls: Annotated[UrlsBody, Field(description="addresses of the job, as its client reached the server")]


class JobListBody(TypedDict):
    """A page of the caller's jobs, newest first."""

    object: Annotated[Literal["list"], Field(description="always `list`")]
    data: Annotated[
        list[JobBody] | list[JobSummaryBody],
        Field(description="the jobs, or with `fields=summary` summaries"),
    ]
    has_more: Annotated[bool, Field(description="whether there are older ones: ask with `after=last_id`")]
    first_id: Annotated[str | None, Field(description="id of the first job; null on an empty page")]
    last_id: Annotated[str | None, Field(description="id of the last job; null on an empty page")]


class TicketBody(TypedDict):
    """A right to read one job for a while, for clients that cannot send headers."""

    ticket: Annotated[str, Field(description="goes into the query of the streams as `ticket`")]
    expires_at: Annotated[Timestamp, Field(description="when it stops being valid")]


class DoneEvent(EndEvent):
    """The job has ended. This is the last event."""

    job: Annotated[
        JobBody | ShortJobBody, Field(description="the job as it ended; a short one with `done=short`")
    ]


EventBody = Annotated[StatusEvent | TokenEvent | DoneEvent, Field(discriminator="type")]


class ModelBody(TypedDict):
    """A model: OpenAI's four fields, and who serves it."""

    id: Annotated[str, Field(description="its name in requests", examples=["bundled"])]
    object: Annotated[Literal["model"], Field(description="always `model`")]
    created: Annotated[int, Field(ge=0, description="Unix time of its first worker, in seconds")]
    owned_by: Annotated[Literal["tokenrelay"], Field(description="always `tokenrelay`")]
    status: Annotated[
        Literal["served", "away"], Field(description="`away`: no worker is alive, and its jobs wait")
    ]
    engines: Annotated[list[str], Field(description="of its live workers", examples=[["transformers"]])]
    workers: Annotated[int, Field(ge=0, description="how many of its workers are alive")]
    slots: Annotated[int, Field(ge=0, description="how many sequences they decode together")]
    max_model_len: Annotated[
        int | None,
        Field(ge=1, description="prompt and output tokens that every live worker takes; null if none says"),
    ]


class ModelListBody(TypedDict):
    """All models that a worker ever announced."""

    object: Annotated[Literal["list"], Field(description="always `list`")]
    data: Annotated[list[ModelBody], Field(description="the models, by name")]


class HealthBody(TypedDict):
    """How many jobs there are, and the workers that run them."""

    jobs: Annotated[
        dict[Status, Annotated[int, Field(ge=0)]], Field(description="how many jobs have which status")
    ]
    workers: Annotated[list[WorkerBody], Field(description="the live workers")]


class ProbeBody(TypedDict):
    """The probe succeeded."""

    status: Annotated[Literal["ok"], Field(description="always `ok`")]


class GeneratedTextBody(TypedDict):
    """The continuation, without the prompt."""

    generated_text: Annotated[str, Field(description="the continuation", examples=[" there was a boy"])]


class GeneratedTextsBody(TypedDict):
    """The continuations, without the prompts."""

    generated_texts: Annotated[list[str], Field(description="one for each prompt, in the same order")]
    job_ids: NotRequired[
        Annotated[
            list[str], Field(description="ids of the jobs; present only where X-Job-ID cannot name all")
        ]
    ]


class NotAwaitedBody(TypedDict):
    """The jobs were accepted, but then Redis could not be reached, so their ends are unknown."""

    detail: Annotated[str, Field(description="what happened, in words")]
    jobs: Annotated[list[str], Field(description="addresses of the jobs, to ask for them later")]


class DemoToken(TypedDict):
    """Text of the demo's stream."""

    token: Annotated[str, Field(description="the text of one token or of several")]


class DemoErrorBody(TypedDict):
    """Why the job did not complete."""

    code: Annotated[str, Field(description="the job's error code, or its final status")]
    message: Annotated[str, Field(description="the reason in words")]


class DemoFailure(TypedDict):
    """The last message of the demo's stream, instead of `[DONE]`, if the job did not complete."""

    error: Annotated[DemoErrorBody, Field(description="why the job did not complete")]


DemoEvent = DemoToken | DemoFailure


class FieldErrorBody(TypedDict):
    """A bad field of the request."""

    field: Annotated[str, Field(description="its path, or a header's name", examples=["messages.0.role"])]
    message: Annotated[str, Field(description="what it accepts")]


class ProblemBody(TypedDict):
    """What went wrong, in the form of RFC 9457."""

    type: Annotated[str, Field(description="the code as a URN", examples=["urn:tokenrelay:error:conflict"])]
    title: Annotated[str, Field(description="the kind of problem", examples=["Conflict"])]
    status: Annotated[int, Field(ge=400, le=599, description="the HTTP status", examples=[409])]
    code: Annotated[str, Field(description="the kind of problem, for programs", examples=["conflict"])]
    detail: Annotated[str, Field(description="what went wrong this time, in words")]
    instance: Annotated[str, Field(description="the path that was asked for", examples=["/v1/jobs"])]
    errors: Annotated[list[FieldErrorBody], Field(description="one for each bad field; empty otherwise")]
