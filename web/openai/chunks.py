"""Encodes a job's events as the chunks of a completion's stream.

The chunks of an event depend on the job's log alone, so every reader at any time gets the same ones. The
number of an event is the id of its last chunk, so that a client can resume after it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from tasks.answers import TokenLogprobs
from tasks.job import FinishReason, Job
from tasks.log import StatusEntry, TokenEntry, logprobs_body
from tasks.output_parts import Reasoning
from web.calls import JobFailedError
from web.openai.bodies import chat_logprobs, text_logprobs, usage
from web.openai.divided_output import Added, DividedOutput, OutputPart
from web.openai.errors import MESSAGES, PROMPT, ErrorBody, error_body
from web.openai.ids import CHAT, TEXT, completion_id
from web.relay.events import Event
from web.render import to_json

DONE = b"data: [DONE]\n\n"

MARK = "the choice"
"""Stands for a chunk's choice while the JSON around it is made, which is the same for all chunks of a job."""

EMPTY = '""'


class Chunks(ABC):
    """The chunks of one job. An instance takes the events in their order, from the first one on.

    first: the job of the completion's first prompt, whose id the completion has.
    place: that of this job among the completion's jobs.
    """

    prefix: str
    kind: str
    prompt_field: str

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

    prefix, kind, prompt_field = CHAT, "chat.completion.chunk", MESSAGES

    def __init__(self, job: Job, *, first: Job, place: int, includes_usage: bool) -> None:
        super().__init__(job, first=first, place=place, includes_usage=includes_usage)
        self._outputs = [DividedOutput.of(job, choice) for choice in range(self._n)]

    def _plain(self, choice: int, text: str) -> list[str]:
        if self._outputs[choice] is None:
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
        output = self._outputs[entry.choice]
        if output is None:
            logged = logprobs_body(entry.logprobs)
            logprobs = None if logged is None else chat_logprobs(logged)
            return [_delta(entry.choice, {"content": entry.text}, logprobs, None)]
        added = Added.of_entry(entry)
        first, parts = output.call_count, output.push(added)
        # The text of a token may be held back, as a part of a call or of a mark. Its logprobs come at once.
        shown = output.shown_logprobs(added)
        return [*_logprobs(entry.choice, shown), *_parts(entry.choice, first, parts)]

    def _end(self, choice: int, reason: str) -> list[dict[str, Any]]:
        output = self._outputs[choice]
        if output is None:
            return [_delta(choice, {}, None, reason)]
        first, parts = output.call_count, output.finish()
        if output.call_count and reason == FinishReason.STOP:
            reason = "tool_calls"
        logprobs = _logprobs(choice, output.last_shown_logprobs())
        return [*logprobs, *_parts(choice, first, parts), _delta(choice, {}, None, reason)]


class TextChunks(Chunks):
    """Chunks of a completion."""

    prefix, kind, prompt_field = TEXT, "text_completion", PROMPT

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


def failure(job: Job, prompt_field: str) -> ErrorBody:
    """Returns why a job did not complete, as OpenAI's SDK expects it in a stream."""
    error = JobFailedError(job)
    return error_body(error.status, error.code, error.detail, prompt_field=prompt_field)


def message(data: str, seq: int | None = None) -> bytes:
    """Returns a Server-Sent Event; `data` has no line ends. seq: its id, if it has one."""
    return (f"id: {seq}\n" if seq is not None else "").encode() + f"data: {data}\n\n".encode()


def _logprobs(choice: int, shown: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
    """Returns the choice of a chunk with log probabilities alone, if there are any."""
    return [_delta(choice, {}, chat_logprobs(shown), None)] if shown else []


def _parts(choice: int, first: int, parts: Sequence[OutputPart]) -> list[dict[str, Any]]:
    """Returns the choices of chunks with reasoning, texts and calls. first: the number of the first call."""
    found = []
    for part in parts:
        if isinstance(part, Reasoning):
            found.append(_delta(choice, {"reasoning_content": part.text}, None, None))
        elif isinstance(part, str):
            found.append(_delta(choice, {"content": part}, None, None))
        else:
            found.append(_delta(choice, {"tool_calls": [{"index": first, **part}]}, None, None))
            first += 1
    return found


def _delta(index: int, delta: dict[str, Any], logprobs: object, reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _text(index: int, text: str, logprobs: object, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
