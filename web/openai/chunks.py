"""Encodes a job's events as the chunks of a completion's stream.

The chunks of an event depend on the job's log alone, so every reader at any time gets the same ones. The
number of an event is the id of its last chunk, so that a client can resume after it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from tasks.job import FinishReason, Job
from tasks.log import StatusEntry, TokenEntry, logprobs_body
from web.calls import JobFailedError
from web.openai.bodies import (
    ChatLogprobsBody,
    ChatReason,
    Created,
    Reason,
    TextLogprobsBody,
    TokenUsageBody,
    chat_logprobs,
    text_logprobs,
    usage,
)
from web.openai.errors import ErrorBody, error_body
from web.openai.ids import CHAT, TEXT, completion_id
from web.openai.tool_output import ToolCallBody, ToolOutput
from web.relay.events import Event
from web.render import to_json

DONE = b"data: [DONE]\n\n"

MARK = "the choice"
"""Stands for a chunk's choice while the JSON around it is made, which is the same for all chunks of a job."""

EMPTY = '""'


class ToolCallDeltaBody(ToolCallBody):
    """A whole call of a tool."""

    index: Annotated[int, Field(ge=0, description="the number of the call in its choice, from 0 on")]


class DeltaBody(TypedDict):
    """What a chunk adds to a message."""

    role: NotRequired[
        Annotated[Literal["assistant"], Field(description="only in the first chunk of a choice")]
    ]
    content: NotRequired[Annotated[str, Field(description="text")]]
    tool_calls: NotRequired[Annotated[list[ToolCallDeltaBody], Field(description="one whole call of a tool")]]


class ChatChunkChoiceBody(TypedDict):
    """What a chunk adds to a choice."""

    index: Annotated[int, Field(ge=0, description="0 to n - 1")]
    delta: Annotated[DeltaBody, Field(description="what it adds to the message")]
    logprobs: Annotated[ChatLogprobsBody | None, Field(description="of these tokens; null unless asked for")]
    finish_reason: Annotated[ChatReason | None, Field(description="null until the choice ends")]


class ChatChunkBody(TypedDict):
    """A part of a chat completion."""

    id: Annotated[str, Field(description="that of its job, with `chatcmpl-` for `job_`")]
    object: Annotated[Literal["chat.completion.chunk"], Field(description="always `chat.completion.chunk`")]
    created: Created
    model: Annotated[str, Field(description="the model that it runs on")]
    choices: Annotated[list[ChatChunkChoiceBody], Field(description="one; none beside the usage")]
    usage: NotRequired[
        Annotated[
            TokenUsageBody | None,
            Field(description="present with `include_usage`; null in all chunks but the last one"),
        ]
    ]


class TextChunkChoiceBody(TypedDict):
    """What a chunk adds to a choice."""

    index: Annotated[int, Field(ge=0, description="n choices for each prompt, in the prompts' order")]
    text: Annotated[str, Field(description="text")]
    logprobs: Annotated[TextLogprobsBody | None, Field(description="of these tokens; null unless asked for")]
    finish_reason: Annotated[Reason | None, Field(description="null until the choice ends")]


class TextChunkBody(TypedDict):
    """A part of a completion."""

    id: Annotated[str, Field(description="that of its first job, with `cmpl-` for `job_`")]
    object: Annotated[Literal["text_completion"], Field(description="always `text_completion`")]
    created: Created
    model: Annotated[str, Field(description="the model that it runs on")]
    choices: Annotated[list[TextChunkChoiceBody], Field(description="one; none beside the usage")]
    usage: NotRequired[
        Annotated[
            TokenUsageBody | None,
            Field(description="present with `include_usage`; null in all chunks but the last one"),
        ]
    ]


ChatChunk = ChatChunkBody | ErrorBody
TextChunk = TextChunkBody | ErrorBody
"""What a stream's `data` may be, before `[DONE]`."""


class Chunks(ABC):
    """The chunks of one job. An instance takes the events in their order, from the first one on.

    first: the job of the completion's first prompt, whose id the completion has.
    place: that of this job among the completion's jobs.
    """

    prefix: str
    kind: str

    def __init__(self, job: Job, *, first: Job, place: int, includes_usage: bool) -> None:
        self._n = int(job.request["n"])
        self._first_index = place * self._n
        self._head = {
            "id": completion_id(self.prefix, first.id),
            "object": self.kind,
            "created": int(first.created_at),
            "model": job.model,
        }
        self._tail: dict[str, Any] = {"usage": None} if includes_usage else {}
        chunk = to_json({**self._head, "choices": [MARK], **self._tail})
        self._before, self._after = chunk.split(f'"{MARK}"')
        self.ended: Job | None = None
        """The job, once it has ended."""

    def of(self, event: Event) -> list[str]:
        """Returns the JSON of an event's chunks."""
        if event.job is not None:
            self.ended = event.job
            return []
        if event.plain is not None:
            choice, text = event.plain.groups()
            return self._plain(int(choice), text)
        entry = event.entry
        if isinstance(entry, StatusEntry):
            return self._opening() if entry.attempt == 1 else []
        if not isinstance(entry, TokenEntry):
            return []
        # The text of a token may be held back. Its logprobs come at once.
        found = self._tokens(entry) if entry.text or entry.logprobs else []
        if entry.finish_reason in (FinishReason.STOP, FinishReason.LENGTH):
            found += self._end(entry.choice, str(entry.finish_reason))
        return [self._chunk(choice) for choice in found]

    def usage(self, jobs: Sequence[Job]) -> str:
        """Returns the chunk with the usage of all the completion's jobs."""
        return to_json({**self._head, "choices": [], "usage": usage(jobs)})

    def _plain(self, choice: int, text: str) -> list[str]:
        """Returns the chunks of a plain token, most often without parsing it. text: as JSON."""
        if text == EMPTY:
            return []
        return [f"{self._before}{self._plain_choice(choice + self._first_index, text)}{self._after}"]

    @abstractmethod
    def _plain_choice(self, index: int, text: str) -> str: ...

    def _opening(self) -> list[str]:
        return []

    @abstractmethod
    def _tokens(self, entry: TokenEntry) -> list[dict[str, Any]]: ...

    @abstractmethod
    def _end(self, choice: int, reason: str) -> list[dict[str, Any]]: ...

    def _chunk(self, choice: dict[str, Any]) -> str:
        choice["index"] += self._first_index
        return to_json({**self._head, "choices": [choice], **self._tail})


class ChatChunks(Chunks):
    """Chunks of a chat completion."""

    prefix, kind = CHAT, "chat.completion.chunk"

    def __init__(self, job: Job, *, first: Job, place: int, includes_usage: bool) -> None:
        super().__init__(job, first=first, place=place, includes_usage=includes_usage)
        self._tools = [ToolOutput.of(job, choice) for choice in range(self._n)]

    def _plain(self, choice: int, text: str) -> list[str]:
        if self._tools[choice] is None:
            return super()._plain(choice, text)
        return [self._chunk(one) for one in self._tokens(TokenEntry(choice, (), json.loads(text)))]

    def _plain_choice(self, index: int, text: str) -> str:
        return f'{{"index":{index},"delta":{{"content":{text}}},"logprobs":null,"finish_reason":null}}'

    def _opening(self) -> list[str]:
        return [
            self._chunk(_delta(index, {"role": "assistant", "content": ""}, None, None))
            for index in range(self._n)
        ]

    def _tokens(self, entry: TokenEntry) -> list[dict[str, Any]]:
        logged = logprobs_body(entry.logprobs)
        logprobs = None if logged is None else chat_logprobs(logged)
        tools = self._tools[entry.choice]
        if tools is None:
            return [_delta(entry.choice, {"content": entry.text}, logprobs, None)]
        first, parts = tools.count, tools.push(entry.text)
        if logprobs is not None:  # Its text may be held back, as a part of a call.
            return [_delta(entry.choice, {}, logprobs, None), *self._parts(entry.choice, first, parts)]
        return self._parts(entry.choice, first, parts)

    def _end(self, choice: int, reason: str) -> list[dict[str, Any]]:
        tools = self._tools[choice]
        if tools is None:
            return [_delta(choice, {}, None, reason)]
        first, parts = tools.count, tools.finish()
        if tools.count and reason == FinishReason.STOP:
            reason = "tool_calls"
        return [*self._parts(choice, first, parts), _delta(choice, {}, None, reason)]

    def _parts(self, choice: int, first: int, parts: Sequence[str | ToolCallBody]) -> list[dict[str, Any]]:
        """Returns the choices of chunks with texts and calls. first: the number of the first call."""
        found = []
        for part in parts:
            if isinstance(part, str):
                found.append(_delta(choice, {"content": part}, None, None))
            else:
                found.append(_delta(choice, {"tool_calls": [{"index": first, **part}]}, None, None))
                first += 1
        return found


class TextChunks(Chunks):
    """Chunks of a completion."""

    prefix, kind = TEXT, "text_completion"

    def __init__(self, job: Job, *, first: Job, place: int, includes_usage: bool) -> None:
        super().__init__(job, first=first, place=place, includes_usage=includes_usage)
        self._offsets = [0] * self._n

    def _plain_choice(self, index: int, text: str) -> str:
        return f'{{"index":{index},"text":{text},"logprobs":null,"finish_reason":null}}'

    def _tokens(self, entry: TokenEntry) -> list[dict[str, Any]]:
        found = logprobs_body(entry.logprobs)
        if found is None:
            return [_text(entry.choice, entry.text, None, None)]
        logprobs = text_logprobs(found, self._offsets[entry.choice])
        self._offsets[entry.choice] += sum(map(len, logprobs["tokens"]))
        return [_text(entry.choice, entry.text, logprobs, None)]

    def _end(self, choice: int, reason: str) -> list[dict[str, Any]]:
        return [_text(choice, "", None, reason)]


def failure(job: Job) -> ErrorBody:
    """Returns why a job did not complete, as OpenAI's SDK expects it in a stream."""
    error = JobFailedError(job)
    return error_body(error.status, error.code, error.detail)


def message(data: str, seq: int | None = None) -> bytes:
    """Returns a Server-Sent Event; `data` has no line ends. seq: its id, if it has one."""
    return (f"id: {seq}\n" if seq is not None else "").encode() + f"data: {data}\n\n".encode()


def _delta(index: int, delta: dict[str, Any], logprobs: object, reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _text(index: int, text: str, logprobs: object, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
