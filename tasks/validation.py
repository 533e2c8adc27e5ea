"""Turns pydantic's errors into ours: each names a field, and says in plain words what it must be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tasks.errors import FieldError, InvalidRequestError

STRING, PARTS, TOKEN_IDS = "[string]", "[parts]", "[token ids]"
MESSAGE_ITEM, CALL_ITEM, CALL_OUTPUT_ITEM = "[message]", "[call]", "[call output]"
REASONING_ITEM = "[reasoning]"
"""The forms of a value that may have several, as pydantic names them in an error's location."""

MARKS = frozenset(
    {"[key]", STRING, PARTS, TOKEN_IDS, MESSAGE_ITEM, CALL_ITEM, CALL_OUTPUT_ITEM, REASONING_ITEM}
)
"""Parts of a location that are no fields. Pydantic itself marks a bad key of a mapping."""

PLAIN_WORDS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a JSON object",
    "extra_forbidden": "there is no such field",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "missing": "is required",
    "model_type": "must be a JSON object",
    "string_type": "must be a string",
    "string_unicode": "must be text without halves of surrogate pairs",
}
"""Pydantic's type of an error -> our message, where its own speaks of Python."""

FEW_ERRORS = 8
"""Only with so few are misspelt names looked for, which takes time for each name."""

MISSPELT_FROM = 0.85
"""How similar two names must be, as `difflib` measures it. `min_tokens` is not meant to be `max_tokens`."""

SUBJECT = re.compile(r"^(?:Input|String|List|Dictionary) should ")


def require_object(body: Any) -> None:
    """Raises InvalidRequestError for a body that is not a JSON object."""
    if not isinstance(body, dict):
        raise InvalidRequestError([FieldError("", "the body must be a JSON object")])


def field_errors(error: ValidationError, known: Iterable[str] = ()) -> list[FieldError]:
    """Returns pydantic's errors in the contract's form, one per bad field.

    known: the names of the fields that there are, so that a misspelt one can be told.
    """
    items = error.errors(include_url=False, include_context=False, include_input=False)
    names = [*known] if len(items) <= FEW_ERRORS else []
    return [
        FieldError(_path(item["loc"]), plain(item["type"], item["msg"]) + _suggestion(item, names))
        for item in items
    ]


def plain(kind: str, message: str) -> str:
    """Returns what follows a field's name: `must be less than or equal to 8`.

    kind, message: `type` and `msg` of an error of pydantic.
    """
    if kind in PLAIN_WORDS:
        return PLAIN_WORDS[kind]
    return SUBJECT.sub("must ", message.removeprefix("Value error, ")).replace(" after validation", "")


def _suggestion(item: ErrorDetails, names: Sequence[str]) -> str:
    """Returns what a field that there is not may be meant to be, to follow the message."""
    if item["type"] != "extra_forbidden" or len(item["loc"]) > 1:
        return ""
    similar = get_close_matches(str(item["loc"][0]), names, n=1, cutoff=MISSPELT_FROM)
    return f"; did you mean {similar[0]}?" if similar else ""


def _path(location: tuple[int | str, ...]) -> str:
    """Returns a path like `messages.0.role`. Only the error about prompt and messages has no location."""
    # The first part is always a field, which may have any name that the client gave it.
    parts = [part for place, part in enumerate(location) if not place or part not in MARKS]
    return ".".join(str(part)[:80] or '""' for part in parts) or "prompt"
