"""The shapes of what clients read about jobs and workers. The API's documentation is made from them.

Typed dicts cost nothing when an answer is built; mypy compares them with the code that builds it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema
from typing_extensions import TypedDict  # Pydantic takes that of `typing` only from Python 3.12 on.

from tasks.job import FinishReason, Status
from tasks.request import JobRequest


class _AsAccepted:
    """Marks a stored request: a dict when the program runs, a JobRequest in the documentation."""

    @staticmethod
    def __get_pydantic_core_schema__(_source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(JobRequest)


Timestamp = Annotated[
    str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-22T13:36:01.123Z"])
]
"""UTC, with milliseconds."""


class TopLogprob(TypedDict):
    """One of the likeliest tokens at a position."""

    token: Annotated[str, Field(description="the token's text")]
    logprob: Annotated[float, Field(le=0, description="natural logarithm of its probability")]


class TokenLogprobs(TopLogprob):
    """A token with its probability, in the shape of OpenAI's chat completions."""

    top_logprobs: Annotated[
        list[TopLogprob],
        Field(description="the likeliest tokens here, as many as were asked for"),
    ]


class ChoiceBody(TypedDict):
    """One of the job's n outputs."""

    index: Annotated[int, Field(ge=0, description="0 to n - 1")]
    text: Annotated[str, Field(description="the text so far", examples=[" there was a boy"])]
    finish_reason: Annotated[FinishReason | None, Field(description="why it ended; null while it has not")]
    logprobs: NotRequired[
        Annotated[
            list[TokenLogprobs],
            Field(description="one for each token; present only where the request has `logprobs`"),
        ]
    ]


class AttemptBody(TypedDict):
    """One worker's run at the job."""

    number: Annotated[int, Field(ge=1, description="1 for the first attempt")]
    worker: Annotated[str, Field(description="Celery's name of the worker", examples=["worker@gpu0"])]
    started_at: Annotated[Timestamp, Field(description="when the worker took the job")]
    ended_at: Annotated[Timestamp | None, Field(description="null while the attempt runs")]
    reason: Annotated[
        str | None,
        Field(
            description="why the attempt ended without ending the job; null otherwise",
            examples=["lease expired", "drained", "preempted"],
        ),
    ]


class UsageBody(TypedDict):
    """Tokens, of all choices together."""

    prompt_tokens: Annotated[int, Field(ge=0, description="0 until a worker has tokenized the prompt")]
    completion_tokens: Annotated[int, Field(ge=0, description="tokens generated so far")]
    total_tokens: Annotated[int, Field(ge=0, description="the sum of both")]


class JobErrorBody(TypedDict):
    """Why the job did not complete."""

    code: Annotated[
        str,
        Field(
            description="`prompt_too_long`, `invalid_messages`, `invalid_prompt`, `invalid_grammar`, "
            "`expired`, `timeout`, `poison` (its workers died too often), `model_not_available`, "
            "`engine_error` or `unreadable_record`",
            examples=["timeout"],
        ),
    ]
    message: Annotated[str, Field(description="the reason in words")]


class MetricsBody(TypedDict):
    """Durations in seconds."""

    queue_seconds: Annotated[
        float | None, Field(ge=0, description="from the submit to the first start, in seconds")
    ]
    first_token_seconds: Annotated[
        float | None, Field(ge=0, description="from the submit to the first token, in seconds")
    ]
    run_seconds: Annotated[
        float | None, Field(ge=0, description="from the first start to the end, or until now, in seconds")
    ]
    tokens_per_second: Annotated[
        float | None, Field(ge=0, description="completion tokens divided by run_seconds")
    ]


class ShortJobFields(TypedDict):
    """A job without its long fields, and without the addresses that only the web server knows."""

    id: Annotated[str, Field(examples=["job_660e17cf06afa2b7b35ade24b9a37"], description="the job's name")]
    object: Annotated[Literal["job"], Field(description="always `job`")]
    status: Annotated[
        Status, Field(description="completed, failed, cancelled and expired are final and never change")
    ]
    model: Annotated[str, Field(description="the model that the job runs on", examples=["bundled"])]
    created_at: Annotated[Timestamp, Field(description="when the job was accepted")]
    started_at: Annotated[Timestamp | None, Field(description="when the first worker took it")]
    ended_at: Annotated[Timestamp | None, Field(description="when it reached its final status")]
    attempt: Annotated[
        int, Field(ge=0, description="how many workers have taken it; 0 before the first start")
    ]
    attempts: Annotated[list[AttemptBody], Field(description="what each of them did, in order")]
    queue_position: Annotated[
        int | None, Field(ge=0, description="jobs ahead of it; 0 is next; null when it does not wait")
    ]
    eta_seconds: Annotated[
        float | None, Field(ge=0, description="estimated seconds until it starts; null if unknown")
    ]
    reason: Annotated[
        str | None, Field(description="why it waits, in words", examples=["3 jobs ahead", "next in line"])
    ]
    request_truncated: Annotated[
        bool,
        Field(
            description="whether the request's text was cut short, as it is when a job fails for its prompt"
        ),
    ]
    usage: Annotated[UsageBody, Field(description="how many tokens it took")]
    error: Annotated[JobErrorBody | None, Field(description="why it did not complete; null otherwise")]
    metrics: Annotated[MetricsBody, Field(description="how long it took; null for what has not happened yet")]
    metadata: Annotated[dict[str, str], Field(description="as given in the request")]


class JobFields(ShortJobFields):
    """A job, without the addresses that only the web server knows."""

    request: Annotated[
        dict[str, Any], _AsAccepted, Field(description="the request as accepted, with its defaults filled in")
    ]
    output: Annotated[list[ChoiceBody], Field(description="n choices, each with its text so far")]


class JobSummaryBody(TypedDict):
    """What a list with `fields=summary` has of a job."""

    id: Annotated[str, Field(examples=["job_660e17cf06afa2b7b35ade24b9a37"], description="the job's name")]
    status: Annotated[Status, Field(description="completed, failed, cancelled and expired are final")]
    model: Annotated[str, Field(description="the model that the job runs on", examples=["bundled"])]
    created_at: Annotated[Timestamp, Field(description="when the job was accepted")]
    queue_position: Annotated[
        int | None, Field(ge=0, description="jobs ahead of it; 0 is next; null when it does not wait")
    ]
    prompt: Annotated[
        str,
        Field(
            description="the first 200 characters of its prompt, or of its messages' texts, a line for each"
        ),
    ]


class StatusEvent(TypedDict):
    """A worker has started an attempt."""

    seq: Annotated[int, Field(ge=1, description="number of the event, from 1 on, without gaps")]
    type: Annotated[Literal["status"], Field(description="always `status`")]
    status: Annotated[Literal[Status.IN_PROGRESS], Field(description="always `in_progress`")]
    attempt: Annotated[int, Field(ge=1, description="1 for the first attempt")]


class TokenEvent(TypedDict):
    """Text of one choice: the text of one token or of several."""

    seq: Annotated[int, Field(ge=1, description="number of the event, from 1 on, without gaps")]
    type: Annotated[Literal["token"], Field(description="always `token`")]
    index: Annotated[int, Field(ge=0, description="the choice, 0 to n - 1")]
    text: Annotated[
        str, Field(description="the texts of a choice's events make its output", examples=[" once"])
    ]
    logprobs: Annotated[
        list[TokenLogprobs] | None, Field(description="one for each token; null where not asked for")
    ]


class EndEvent(TypedDict):
    """The job has ended. This is the last event."""

    seq: Annotated[int, Field(ge=1, description="number of the event, from 1 on, without gaps")]
    type: Annotated[Literal["done"], Field(description="always `done`")]
    status: Annotated[Status, Field(description="the job's final status")]


class WorkerBody(TypedDict):
    """A live worker, as it announced itself last."""

    id: Annotated[str, Field(description="Celery's name of the worker", examples=["worker@gpu0"])]
    model: Annotated[str, Field(description="the model that it serves")]
    engine: Annotated[str, Field(description="the engine that it runs", examples=["transformers"])]
    slots: Annotated[int, Field(ge=0, description="sequences that it decodes together; 0 while it drains")]
    running: Annotated[int, Field(ge=0, description="slots in use")]
    tokens_per_second: Annotated[float, Field(ge=0, description="its present speed, all jobs together")]
    max_model_len: Annotated[
        int | None,
        Field(ge=1, description="tokens of prompt and output together that fit; null if it did not say"),
    ]
