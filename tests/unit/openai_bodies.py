"""Bodies for OpenAI's routes, generated from the types of its SDK, and what is wrong with some of them."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

from hypothesis import strategies as st
from openai._types import SequenceNotStr
from typing_extensions import get_type_hints, is_typeddict

DEEPEST = 5
"""Below this level a value has no optional fields, and lists are empty."""

WORDS = st.sampled_from(["", "x", "hello", "\u00e9\U0001f600", "a.b", "0", "job_x", "file-1"])
TEXTS = WORDS | st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = (
    st.integers(-2, 8) | st.integers() | st.floats(-3, 3) | st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
HUGE = st.sampled_from(
    ["y" * 70_000, [0] * 2_000, {str(key): "v" for key in range(300)}, 10**400, -(2**63) - 1, 1e308]
)
LEAVES: Mapping[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: st.integers(-2, 8) | st.integers(),
    float: st.floats(-3, 3) | st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2),
    bool: st.booleans(),
    type(None): st.none(),
    object: JSON,
    Any: JSON,
}
LISTS = (list, Sequence, Iterable, SequenceNotStr)
WRAPPERS = (Annotated, Required, NotRequired)


@cache
def fields_of(body: Any) -> Mapping[str, Any]:
    """Returns the fields of a typed dict of the SDK, with their types."""
    return get_type_hints(body, include_extras=True)


@st.composite
def bodies(draw: st.DrawFn, body: Any) -> dict[str, Any]:
    """A body that the SDK's types allow. body: a typed dict, or a union of them."""
    drawn: dict[str, Any] = _value(draw, body, 0)
    return drawn


@st.composite
def broken(draw: st.DrawFn, whole: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """A body with one to three faults: other types, missing fields, fields too many, huge values."""
    body = copy.deepcopy(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        _break(draw, body)
    return body


def _value(draw: st.DrawFn, kind: Any, depth: int) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind in LEAVES:
        return draw(LEAVES[kind])
    if is_typeddict(kind):
        return _fields(draw, kind, depth)
    if origin in WRAPPERS:
        return _value(draw, args[0], depth)
    if origin is Literal:
        return draw(st.sampled_from(args))
    if origin in (Union, types.UnionType):
        return _value(draw, draw(st.sampled_from(_shallow(args) if depth >= DEEPEST else args)), depth)
    if getattr(origin, "__origin__", origin) in LISTS or origin in LISTS:
        return [_value(draw, args[0], depth + 1) for _ in range(draw(st.integers(0, 2 * (depth < DEEPEST))))]
    assert issubclass(origin, Mapping), kind
    return {
        draw(TEXTS): _value(draw, args[1], depth + 1)
        for _ in range(draw(st.integers(0, 2 * (depth < DEEPEST))))
    }


def _shallow(members: Sequence[Any]) -> Sequence[Any]:
    return [member for member in members if member in LEAVES or get_origin(member) is Literal] or members


def _fields(draw: st.DrawFn, kind: Any, depth: int) -> dict[str, Any]:
    fields = fields_of(kind)
    names = [name for name in fields if _is_required(kind, name)]
    if optional := [name for name in fields if name not in names]:
        most = 0 if depth > DEEPEST else 4
        names += draw(st.lists(st.sampled_from(optional), max_size=most, unique=True))
    return {name: _value(draw, fields[name], depth + 1) for name in names}


def _is_required(kind: Any, name: str) -> bool:
    # Types that are written as strings hide `Required` from `__required_keys__`.
    return name in kind.__required_keys__ or get_origin(fields_of(kind)[name]) is Required


def _break(draw: st.DrawFn, body: dict[str, Any]) -> None:
    place: Any = draw(st.sampled_from([part for part in _containers(body) if part or isinstance(part, dict)]))
    keys = list(place) if isinstance(place, dict) else range(len(place))
    wrong = copy.deepcopy(draw(JSON | HUGE | st.none()))  # Each huge value is one object.
    match draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace" if keys:
            place[draw(st.sampled_from(keys))] = wrong
        case "remove" if keys:
            del place[draw(st.sampled_from(keys))]
        case _ if isinstance(place, dict):
            place[draw(TEXTS | st.sampled_from(["prompt", "logprobs", "[string]", "[key]", "y" * 100]))] = (
                wrong
            )


def _containers(part: Any) -> list[Any]:
    if not isinstance(part, (dict, list)):
        return []
    inner = part.values() if isinstance(part, dict) else part
    return [part, *(found for one in inner for found in _containers(one))]
