"""The field `structured_outputs` of a request: its shape and its bounds.

Whether a grammar can be compiled is decided by `tasks.grammar_check`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema
from typing_extensions import TypedDict

MAX_GRAMMAR_CHARACTERS = 65_536
"""The most characters of a schema as compact JSON, of a Lark grammar, or of all choices together."""

MAX_REGEX_CHARACTERS = 4_096
"""The cost of a mask grows with the length of a regular expression."""

MAX_CHOICES = 1_000

MAX_SCHEMA_DEPTH = 100
"""How deeply objects and lists of a schema may be nested. The library stops at 128."""

KINDS = ("json", "regex", "choice", "grammar")

NOT_A_SCHEMA = "must be a JSON schema: an object, or a string that holds one"


def _schema(value: Any) -> Any:
    """Returns a schema as it came. Raises ValueError where it is none, or exceeds a bound."""
    schema = schema_of(value)
    if not isinstance(schema, dict):
        raise ValueError(NOT_A_SCHEMA)
    if len(compact_json(schema)) > MAX_GRAMMAR_CHARACTERS:
        raise ValueError(f"must have at most {MAX_GRAMMAR_CHARACTERS} characters as JSON")
    return value


def schema_of(value: Any) -> Any:
    """Returns the schema that a client sent as an object or as a string. Raises ValueError."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not valid JSON: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_depth(schema: Any) -> None:
    level, depth = [schema], 0
    while level:
        depth += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise ValueError(f"must not be nested more than {MAX_SCHEMA_DEPTH} levels deep")
        level = [
            child
            for one in level
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, (dict, list))
        ]


def compact_json(schema: Any) -> str:
    """Returns a schema as compact JSON.

    Raises ValueError where it is nested too deeply, or holds infinite numbers or halves of surrogate pairs.
    """
    _check_depth(schema)
    text = json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be text without halves of surrogate pairs") from None
    return text


def _short(choices: list[str]) -> list[str]:
    if sum(map(len, choices)) > MAX_GRAMMAR_CHARACTERS:
        raise ValueError(f"must have at most {MAX_GRAMMAR_CHARACTERS} characters in all")
    return choices


def _exactly_one(outputs: Any) -> Any:
    if len(outputs) != 1:
        raise ValueError(f"must have exactly one of {', '.join(KINDS)}")
    return outputs


class _StructuredOutputs(TypedDict, total=False):
    """What a job's output must be. Exactly one of these fields.

    It is a typed dict, because a pydantic model cannot have a field named `json`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    json: Annotated[
        Any,
        AfterValidator(_schema),
        WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}]}),
        Field(
            description="a JSON schema, as an object or as a string; the output is JSON that it accepts",
            examples=[{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}],
        ),
    ]
    regex: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_REGEX_CHARACTERS,
            description="a regular expression, which the whole output matches",
            examples=["[0-9]{4}-[0-9]{2}"],
        ),
    ]
    choice: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(
            min_length=1,
            max_length=MAX_CHOICES,
            description="the output is one of these strings",
            examples=[["yes", "no"]],
        ),
        AfterValidator(_short),
    ]
    grammar: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_GRAMMAR_CHARACTERS,
            description="a grammar in the form of Lark, whose rule `start` the output matches",
            examples=['start: "a" | "b"'],
        ),
    ]


StructuredOutputs = Annotated[_StructuredOutputs, AfterValidator(_exactly_one)]


def kind_of(outputs: _StructuredOutputs) -> str:
    """Returns which of KINDS a valid field has."""
    [kind] = outputs
    return kind
