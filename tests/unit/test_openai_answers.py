"""Answers have the types that OpenAI's SDK declares, which reads them leniently."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Batch as SdkBatch
from openai.types import Completion, FileObject
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import (
    Response,
    ResponseInputMessageItem,
    ResponseOutputMessage,
    ResponseStreamEvent,
)
from pydantic import BaseModel

from tasks.answers import TokenLogprobs
from tasks.batch import Batch, BatchError, BatchStatus
from tasks.job import FinishReason, Job, JobError, Status
from tasks.log import DoneEntry, Entry, StatusEntry, TokenEntry, choices
from tasks.reasoning_marks import ReasoningMarks
from tasks.request import JobRequest
from tasks.submission import Draft
from tasks.uploads import FileRecord
from web.openai.batches.bodies import batch_body, file_body
from web.openai.bodies import chat_completion, completion, text_logprobs
from web.openai.chunks import ChatChunks, Chunks, TextChunks
from web.openai.responses.bodies import response
from web.openai.responses.events import ResponseEvents
from web.openai.responses.item_list import input_items
from web.openai.responses.origin import Turn
from web.openai.responses.parameters import ResponseParameters
from web.relay.events import Event
from web.render import to_json

ADDED = {"error.type", "choices.message.reasoning_content", "choices.delta.reasoning_content"}
"""Fields of answers that the SDK does not know, by their paths."""

EVENTS: Mapping[str, type[BaseModel]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind
    for kind in get_args(get_args(ResponseStreamEvent)[0])
}
"""The events of a response's stream by their types."""

TOOL = {"type": "function", "function": {"name": "f"}}
HELLO = [{"role": "user", "content": "hello"}]

PIECES = st.text(max_size=5) | st.sampled_from(
    [
        *("<tool_call>", '{"name": "f", "arguments": {"a": 1}}', "</tool_call>", "[TOOL_CALLS]"),
        *("f[ARGS]{}", "<|python_tag|>", "<think>", "</think>", "\n", "{", "\ufffd", "\U0001f600"),
    ]
)
LOGPROB = st.floats(-50, 0) | st.just(0)
TOKEN_LOGPROBS = st.tuples(PIECES, LOGPROB, st.lists(st.tuples(PIECES, LOGPROB), max_size=2)).map(list)
WHOLE = st.sampled_from([FinishReason.STOP, FinishReason.LENGTH])
TIMES = st.floats(1e9, 2e9)
NAMES = st.text(min_size=1, max_size=9)
MARKS = st.none() | st.builds(ReasoningMarks, st.just("<think>"), st.just("</think>"), st.booleans())
UNIX = st.none() | TIMES

Run = tuple[Job, list[Entry]]
"""An ended job and its log."""


@st.composite
def logs(draw: st.DrawFn, n: int, status: Status, *, has_logprobs: bool) -> list[Entry]:
    """A log of n choices. If the job has completed, each of them has a whole output."""
    entries: list[Entry] = [StatusEntry(1)]
    for text in draw(st.lists(PIECES, max_size=5)):
        logprobs = [draw(TOKEN_LOGPROBS)] if has_logprobs else None
        entries.append(TokenEntry(draw(st.integers(0, n - 1)), (7,), text, None, logprobs))
    if draw(st.booleans()):
        entries.append(StatusEntry(2))
    for choice in range(n):
        reason = draw(WHOLE) if status is Status.COMPLETED else FinishReason.ERROR
        entries.append(TokenEntry(choice, (), draw(PIECES), reason, [] if has_logprobs else None))
    return [*entries, DoneEntry(status)]


@st.composite
def runs(
    draw: st.DrawFn, request: dict[str, Any], statuses: Sequence[Status], origin: Any = None, most: int = 3
) -> Run:
    """A job with this request and others of its options, and its log."""
    options: dict[str, Any] = {
        "n": draw(st.integers(1, most)),
        "metadata": draw(st.just({}) | st.just({"a": "b"})),
    }
    if draw(st.booleans()):
        options["logprobs"] = 2
    accepted = JobRequest.model_validate(request | options).model_dump(mode="json", exclude_none=True)
    status = draw(st.sampled_from(statuses))
    log = draw(logs(options["n"], status, has_logprobs="logprobs" in options))
    job = Draft.of(accepted | {"model": "m"}, origin).job("job_a", "ada", draw(TIMES))
    ended = replace(
        job,
        status=status,
        output=choices(log, options["n"]),
        ended_at=job.created_at + 1,
        prompt_tokens=3,
        reasoning_marks=draw(MARKS) if "messages" in request else None,
        error=JobError(draw(st.sampled_from(["timeout", "prompt_too_long"])), "why")
        if status is Status.FAILED
        else None,
    )
    return ended, log


def chunks(kind: type[Chunks], run: Run) -> Iterator[str]:
    """Yields the chunks of a stream with its usage."""
    job, _ = run
    shape = kind(job, first=job, place=0, includes_usage=True)
    for event in events(run):
        yield from shape.of(event)
    yield shape.usage([job])


def events(run: Run) -> Iterator[Event]:
    job, log = run
    for seq, entry in enumerate(log, 1):
        yield Event(seq, entry.encode(), job if isinstance(entry, DoneEntry) else None)


def check(kind: type[BaseModel], body: Any) -> None:
    """Asserts that an answer has the fields of the SDK's type, each with a declared type, and no others."""
    fields = json.loads(body if isinstance(body, str) else to_json(body))
    found = kind.model_validate(fields, strict=True)
    assert set(unknown(found)) <= ADDED


def unknown(part: Any, path: str = "") -> Iterator[str]:
    """Yields the paths of the fields that the SDK's models do not declare."""
    if isinstance(part, list):
        for one in part:
            yield from unknown(one, path)
    if isinstance(part, BaseModel):
        yield from (f"{path}{name}" for name in part.model_extra or ())
        for name in type(part).model_fields:
            yield from unknown(getattr(part, name), f"{path}{name}.")


@settings(deadline=None)  # The SDK builds a validator when it is first used, which takes most of the time.
@given(run=runs({"prompt": "x"}, [Status.COMPLETED]))
def test_completions(run: Run) -> None:
    check(Completion, completion([run[0], run[0]]))
    for chunk in chunks(TextChunks, run):
        # The SDK has no type for these. OpenAI's own streams have null until a choice ends.
        check(Completion, chunk.replace('"finish_reason":null', '"finish_reason":"stop"'))


@settings(deadline=None)
@given(
    run=runs({"messages": HELLO}, [Status.COMPLETED])
    | runs({"messages": HELLO, "tools": [TOOL]}, [Status.COMPLETED])
)
def test_chat_completions(run: Run) -> None:
    check(ChatCompletion, chat_completion(run[0]))
    for chunk in chunks(ChatChunks, run):
        check(ChatCompletionChunk, chunk)


@st.composite
def response_runs(draw: st.DrawFn) -> Run:
    body = {"input": "x", "background": draw(st.booleans()), "user": draw(st.none() | NAMES)}
    if draw(st.booleans()):
        body["instructions"] = "be brief"
    turns: list[Turn] = [{"id": "resp_b", "messages": 1, "outputs": 1}] * draw(st.integers(0, 1))
    origin = ResponseParameters.model_validate(body).origin(turns)
    statuses = [Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED]
    before = [{"role": "system", "content": "be brief"}] if origin["instructions"] else []
    messages = [*before, *HELLO, {"role": "assistant", "content": "y"}, *HELLO]
    return draw(runs({"messages": messages}, statuses, origin, 1))


@settings(deadline=None)
@given(run=response_runs())
def test_responses(run: Run) -> None:
    job, _ = run
    for status in (Status.QUEUED, Status.IN_PROGRESS, job.status):
        check(Response, response(replace(job, status=status)))
    for item in input_items(job):
        is_output = item["type"] == "message" and item["role"] == "assistant"
        check(ResponseOutputMessage if is_output else ResponseInputMessageItem, item)
    shape = ResponseEvents(job)
    for one in [*shape.first(), *(found for event in events(run) for found in shape.of(event))]:
        check(EVENTS[one["type"]], one)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    error = BatchError(draw(NAMES), draw(NAMES), draw(st.none() | st.integers(1)), draw(st.none() | NAMES))
    return Batch(
        id="batch_a",
        owner="ada",
        status=draw(st.sampled_from(list(BatchStatus))),
        endpoint="/v1/completions",
        input_file_id="file-a",
        completion_window="24h",
        metadata=draw(st.dictionaries(NAMES, NAMES, max_size=2)),
        created_at=draw(TIMES),
        expires_at=draw(TIMES),
        times={status: draw(TIMES) for status in draw(st.sets(st.sampled_from(list(BatchStatus))))},
        outcome=None,
        output_file_id=draw(st.none() | NAMES),
        error_file_id=draw(st.none() | NAMES),
        errors=[error.to_dict()] * draw(st.integers(0, 2)),
        model=draw(st.none() | NAMES),
        total=3,
        completed=1,
        failed=2,
        prompt_tokens=5,
        completion_tokens=6,
        offset=0,
        next_line=0,
        input_bytes=9,
    )


@given(batch=batches())
def test_batches(batch: Batch) -> None:
    check(SdkBatch, batch_body(batch))


@given(name=NAMES, purpose=st.sampled_from(["batch", "batch_output"]), expires_at=UNIX, is_open=st.booleans())
def test_files(name: str, purpose: str, expires_at: float | None, is_open: bool) -> None:
    check(
        FileObject,
        file_body(FileRecord("file-a", "ada", name, purpose, 9, 1, 1.5e9, expires_at, is_open, False)),
    )


def test_the_token_that_was_drawn_is_among_the_top_ones_of_a_completion() -> None:
    drawn: TokenLogprobs = {"token": "a", "logprob": -3.0, "top_logprobs": [{"token": "b", "logprob": -0.1}]}
    assert text_logprobs([drawn])["top_logprobs"] == [{"a": -3.0, "b": -0.1}]
    assert text_logprobs([{**drawn, "top_logprobs": []}])["top_logprobs"] == [{"a": -3.0}]
