"""The parts of a conversation's output that a worker divides itself, as a token entry has them.

A worker does so if its model's tokenizer has a response template (`worker.engine.text.response_template`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

DIVIDED_SINCE_VERSION = 2
"""The version of a record since which workers divide outputs, if the record asks for it."""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text that a model writes before its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function. arguments: JSON."""

    name: str
    arguments: str


Part = Reasoning | str | Call
"""A part of an output. A text is part of the answer."""


def joined(parts: Iterable[Part]) -> list[Part]:
    """Returns the parts, with those of one kind that follow each other in one, except for calls."""
    found: list[Part] = []
    for part in parts:
        match found[-1:], part:
            case [str(before)], str():
                found[-1] = before + part
            case [Reasoning(before)], Reasoning(text):
                found[-1] = Reasoning(before + text)
            case _:
                found.append(part)
    return found


def encode_parts(parts: Sequence[Part], text: str) -> list[Any] | None:
    """Returns the parts of an entry as JSON; None if the text as it is belongs to the answer.

    Reasoning stands as ["r", its text], and as ["r"] if that is the entry's whole text: most entries are like
    that, and no text should be stored twice. A call is ["c", name, arguments].
    """
    if parts_of(text, None) == list(parts):
        return None
    return [_encoded(part, text) for part in parts]


def decode_parts(encoded: Sequence[Any], text: str) -> list[Part]:
    """Returns the parts of an entry with this text."""
    return [_decoded(part, text) for part in encoded]


def parts_of(text: str, parts: Sequence[Part] | None) -> Sequence[Part]:
    """Returns the parts of a text. parts: None if it is all of the answer."""
    if parts is not None:
        return parts
    return [text] if text else []


def _encoded(part: Part, text: str) -> Any:
    match part:
        case Reasoning():
            return ["r"] if part.text == text else ["r", part.text]
        case Call():
            return ["c", part.name, part.arguments]
        case str():
            return part


def _decoded(part: Any, text: str) -> Part:
    match part:
        case str():
            return part
        case ["r"]:
            return Reasoning(text)
        case ["r", str(reasoning)]:
            return Reasoning(reasoning)
        case ["c", str(name), str(arguments)]:
            return Call(name, arguments)
    raise ValueError(f"unknown part {part!r}")
