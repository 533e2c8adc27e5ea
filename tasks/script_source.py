"""Puts a Lua script together: its arguments as local variables, the shared parts that it needs, its own text.

The comment at a script's head declares what it needs and takes:

    -- Needs:   lifecycle, dispatch        (parts in tasks/lua/shared; a part may need others)
    -- Arguments:
    --   id: text
    --   free_slots: number    anything after two spaces is for the reader

So a script reads `free_slots` and not `tonumber(ARGV[6])`, and a caller names what it passes. The types are

    text      a string, or bytes
    number    an int or a float
    flag      a bool
    json      any JSON value; None values are left out, so that Lua reads nil
    texts     a list of strings; the last argument
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LUA = Path(__file__).parent / "lua"

Encoded = str | bytes | int | float

_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

NEEDS = re.compile(r"^-- Needs: +(.+)$", re.MULTILINE)
ARGUMENTS = re.compile(r"^-- Arguments:\n((?:--   .*\n)+)", re.MULTILINE)
ARGUMENT = re.compile(r"^--   (\w+): (\w+)", re.MULTILINE)

LOCALS = {
    "text": "local {name} = ARGV[{at}]\n",
    "number": "local {name} = tonumber(ARGV[{at}])\n",
    "flag": "local {name} = ARGV[{at}] == '1'\n",
    "json": "local {name} = cjson.decode(ARGV[{at}])\n",
    # Without `unpack`, because Lua's stack takes only some thousand values.
    "texts": "local {name} = {{}}\nfor i = {at}, #ARGV do {name}[#{name} + 1] = ARGV[i] end\n",
}
"""Type -> the statement that makes a local variable of the argument at a position in ARGV."""


class EncodedJson(str):
    """A value of the type json that is encoded already, because it is passed many times."""

    __slots__ = ()


def encode_json(value: Any) -> EncodedJson:
    return EncodedJson(_encode_json(value))


@dataclass(frozen=True, slots=True)
class Script:
    """arguments: name -> type, in the order in which Lua gets them."""

    text: str
    arguments: Mapping[str, str]

    def encode(self, given: Mapping[str, Any]) -> list[Encoded]:
        """Returns the script's ARGV. Raises TypeError unless exactly the declared arguments are given."""
        if given.keys() != self.arguments.keys():
            raise TypeError(f"the script takes {list(self.arguments)}, not {list(given)}")
        encoded: list[Encoded] = []
        for name, kind in self.arguments.items():
            encoded += _encode(kind, given[name])
        return encoded


def assemble(path: Path, shared: Mapping[str, str]) -> Script:
    """Returns the script in a file. shared: arguments that every script takes before its own, name -> type.

    Raises KeyError where a type does not exist.
    """
    text = path.read_text()
    arguments = {**shared, **_declared(text)}
    parts = [(LUA / "shared" / f"{name}.lua").read_text() for name in _parts(text)]
    return Script("".join([_locals(arguments), *parts, text]), arguments)


def _declared(text: str) -> dict[str, str]:
    block = ARGUMENTS.search(text)
    return dict(ARGUMENT.findall(block[1])) if block else {}


def _parts(text: str) -> list[str]:
    """Returns the shared parts that a script needs, each after those that it needs itself."""
    parts = ["base"]

    def add(needing: str) -> None:
        needs = NEEDS.search(needing)
        for name in needs[1].split(", ") if needs else ():
            if name not in parts:
                add((LUA / "shared" / f"{name}.lua").read_text())
                parts.append(name)

    add(text)
    return parts


def _locals(arguments: Mapping[str, str]) -> str:
    found = enumerate(arguments.items(), 1)
    return "".join(LOCALS[kind].format(name=name, at=at) for at, (name, kind) in found)


def _encode(kind: str, value: Any) -> Sequence[Encoded]:
    match kind:
        case "flag":
            return [int(value)]
        case "json":
            return [value if isinstance(value, EncodedJson) else encode_json(value)]
        case "texts":
            return list(value)
        case _:
            return [value]
