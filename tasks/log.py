"""The token log: one list per job with all its events. An entry's seq is its index + 1.

An entry is a compact JSON array:

    ["s", attempt]                   a worker started an attempt
    ["t", choice, ids, text,         tokens of one choice; nulls at the end are left out
     logprobs, finish_reason, parts]
    ["d", status]                    the job has ended

`ids` are all ids since the choice's last entry, including those whose text is still held back. So the text
shown is always a prefix of the detokenized ids. `parts` are those of a job whose worker divides its outputs
(`tasks.output_parts`).

Ten seconds after the job's end the list is packed into one field of the record, which takes a quarter of its
size.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any

from tasks.job import Choice, FinishReason, Status
from tasks.output_parts import Part, decode_parts, encode_parts, parts_of

if TYPE_CHECKING:
    from tasks.answers import EndEvent, StatusEvent, TokenEvent, TokenLogprobs

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

STATUS_MARK, TOKEN_MARK = '["s"', '["t"'
"""How encoded entries begin."""

LoggedLogprobs = list[Any]
"""The logprobs of one token: [text, logprob, [[text, logprob] of the best tokens, ...]].

A 1 follows if the worker divides the output and the token belongs to the reasoning.
"""


@dataclass(frozen=True, slots=True)
class StatusEntry:
    attempt: int

    def encode(self) -> str:
        return f'["s",{self.attempt}]'


@dataclass(frozen=True, slots=True)
class TokenEntry:
    choice: int
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None = None
    logprobs: list[LoggedLogprobs] | None = None
    """One for each id, held-back ones included, if the client asked for them."""
    parts: list[Part] | None = None
    """The parts of the text, if its worker divides outputs; None if it is all of the answer."""

    def encode(self) -> str:
        return encode_tokens(
            self.choice, self.token_ids, self.text, self.finish_reason, self.logprobs, self.parts
        )


@dataclass(frozen=True, slots=True)
class DoneEntry:
    status: Status

    def encode(self) -> str:
        return f'["d","{self.status}"]'


Entry = StatusEntry | TokenEntry | DoneEntry


def encode_tokens(
    choice: int,
    token_ids: Sequence[int],
    text: str,
    finish_reason: FinishReason | None = None,
    logprobs: list[LoggedLogprobs] | None = None,
    parts: Sequence[Part] | None = None,
) -> str:
    """Returns an encoded `TokenEntry`, without making one: a worker writes thousands a second."""
    ids = token_ids[0] if len(token_ids) == 1 else ",".join(map(str, token_ids))
    # Nearly every token has nulls at the end, and the log takes most of a job's memory.
    told = None if parts is None else encode_parts(parts, text)
    if logprobs is None and finish_reason is None and told is None:
        return f'["t",{choice},[{ids}],{encode_basestring(text)}]'
    end = "" if finish_reason is None else f',"{finish_reason}"'
    if told is not None:
        end = f"{end or ',null'},{_encode(told)}"
    return f'["t",{choice},[{ids}],{encode_basestring(text)},{_encode(logprobs)}{end}]'


def parse_entry(entry: str | list[Any]) -> Entry:
    """Returns an entry. It is given as stored, or decoded already as part of a published message."""
    kind, *rest = json.loads(entry) if isinstance(entry, str) else entry
    if kind == "t":
        choice, ids, text, *more = rest
        logprobs, finish_reason, told = (*more, None, None, None)[:3]
        reason = None if finish_reason is None else FinishReason(finish_reason)
        parts = None if told is None else decode_parts(told, text)
        return TokenEntry(choice, tuple(ids), text, reason, logprobs, parts)
    if kind == "s":
        return StatusEntry(rest[0])
    if kind == "d":
        return DoneEntry(Status(rest[0]))
    raise ValueError(f"unknown entry kind {kind!r}")


def pack(entries: Iterable[str]) -> str:
    """Returns a whole log as one string, in ASCII, because the connection decodes all that it reads."""
    # No encoded entry contains a line end, because JSON escapes it.
    return base64.b85encode(zlib.compress("\n".join(entries).encode())).decode("ascii")


def unpack(packed: str) -> list[str]:
    """Returns the entries that `pack` was given. There must be at least one."""
    return zlib.decompress(base64.b85decode(packed)).decode().split("\n")


def event(seq: int, entry: Entry) -> StatusEvent | TokenEvent | EndEvent:
    """Returns the contract's event. A `done` event still lacks `job`, which the web server adds."""
    match entry:
        case StatusEntry(attempt):
            return {"seq": seq, "type": "status", "status": Status.IN_PROGRESS, "attempt": attempt}
        case TokenEntry():
            return {
                "seq": seq,
                "type": "token",
                "index": entry.choice,
                "text": entry.text,
                "logprobs": logprobs_body(entry.logprobs),
            }
        case DoneEntry(status):
            return {"seq": seq, "type": "done", "status": status}


def logprobs_body(logged: Sequence[LoggedLogprobs] | None) -> list[TokenLogprobs] | None:
    """Returns them in the shape of OpenAI's chat completions, as clients read them."""
    if logged is None:
        return None
    return [
        {
            "token": text,
            "logprob": logprob,
            "top_logprobs": [{"token": best, "logprob": value} for best, value in top],
        }
        for text, logprob, top, *_ in logged
    ]


def reasoning_flags(logged: Sequence[LoggedLogprobs] | None) -> list[bool]:
    """Returns of each token whether its worker found it in the reasoning."""
    return [bool(flag) for _, _, _, *flag in logged or ()]


def choices(entries: Iterable[Entry], n: int) -> list[Choice]:
    """Returns each of a job's n choices, from the entries of its log."""
    found = [Choice(index) for index in range(n)]
    texts: Sequence[list[str]] = [[] for _ in range(n)]
    for entry in entries:
        if isinstance(entry, TokenEntry):
            choice = found[entry.choice]
            if choice.parts is not None:
                choice.parts += parts_of(entry.text, entry.parts)
            elif entry.parts is not None:
                choice.parts = [*parts_of("".join(texts[entry.choice]), None), *entry.parts]
            texts[entry.choice].append(entry.text)
            choice.token_ids.extend(entry.token_ids)
            choice.logprobs.extend(logprobs_body(entry.logprobs) or ())
            choice.in_reasoning.extend(reasoning_flags(entry.logprobs))
            choice.finish_reason = entry.finish_reason or choice.finish_reason
    for choice, parts in zip(found, texts, strict=True):
        choice.text = "".join(parts)
    return found
