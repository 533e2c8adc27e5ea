"""Finds the calls of tools in a model's output, as the text comes.

Models write calls in forms of their own. They begin with one of these:

    <tool_call>{"name": …, "arguments": {…}}</tool_call>    Hermes, Qwen; text may come before and between
    [TOOL_CALLS][{"name": …, "arguments": {…}}]             Mistral; text may come before
    [TOOL_CALLS]name[ARGS]{…}                               Mistral since 2025
    <|python_tag|>{"name": …, "parameters": {…}}            Llama 3, several divided by `;`
    {"name": …, "parameters": {…}}                          the same, without its mark; only at the beginning,
                                                            and only for a tool of the request

Text that only looks like a call stays text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from typing import Any, Literal

from tasks.output_parts import Call
from tasks.tools import NAME_PATTERN

OPENING, CLOSING = "<tool_call>", "</tool_call>"
CALLS_TO_THE_END = ("[TOOL_CALLS]", "<|python_tag|>")
"""Marks after which only calls come."""

MARKS = (OPENING, *CALLS_TO_THE_END)
ARGUMENTS_MARK = "[ARGS]"

ID_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 9
"""Mistral's chat templates refuse ids of another length, and ids with other characters."""

NAME = re.compile(NAME_PATTERN)

_decoder = json.JSONDecoder()


class ToolCallParser:
    """Divides the output of one choice into text and calls. `push` takes the texts in their order."""

    def __init__(self, tools: Collection[str]) -> None:
        """tools: the names of the request's tools. JSON without a mark is a call only if it names them."""
        self._tools = tools
        self._state: Literal["beginning", "text", "call", "calls to the end"] = "beginning"
        self._held = ""
        """What may be the beginning of a mark, or of a call that is not complete yet."""
        self._mark = ""
        self._space = ""
        """White space before the mark, which goes with the call, unless this is no call."""

    def push(self, text: str) -> list[str | Call]:
        """Returns what is known now. Texts come at once, calls when they are complete."""
        self._held += text
        found: list[str | Call] = []
        while self._advance(found):
            pass
        return [part for part in found if part]

    def finish(self) -> list[str | Call]:
        """Returns what is left at the end of the output."""
        held, self._held = self._held, ""
        if self._state == "text" or not held + self._mark:
            return [held] if held else []
        calls = _calls(held) if self._state != "beginning" else None
        is_call = calls is not None and (self._mark or all(call.name in self._tools for call in calls))
        return [*calls] if calls is not None and is_call else [self._space + self._mark + held]

    def _advance(self, found: list[str | Call]) -> bool:
        """Takes a step. Returns whether another one may be possible without more text."""
        match self._state:
            case "beginning":
                return self._begin()
            case "text":
                return self._find_mark(found)
            case "call":
                return self._close(found)
        return False

    def _begin(self) -> bool:
        """Decides whether the output begins with a call in JSON, once it has a character that is no space."""
        start = self._held.lstrip()
        if not start:
            return False
        if start[0] == "{" or (start[0] == "[" and not _may_be(CALLS_TO_THE_END[0], start)):
            self._state = "calls to the end"
            return False
        if any(_may_be(mark, start) and not start.startswith(mark) for mark in MARKS):
            return False
        self._state = "text"
        return True

    def _find_mark(self, found: list[str | Call]) -> bool:
        places = {mark: self._held.find(mark) for mark in MARKS if mark in self._held}
        if places:
            self._mark = min(places, key=lambda mark: places[mark])
            before, _, self._held = self._held.partition(self._mark)
            self._state = "call" if self._mark == OPENING else "calls to the end"
            # Models write line ends between text and calls, and between calls.
            text = before.rstrip()
            found.append(text)
            self._space = before[len(text) :]
            return True
        kept = _end_that_may_be_a_mark(self._held)
        found.append(self._held[: len(self._held) - kept])
        self._held = self._held[len(self._held) - kept :]
        return False

    def _close(self, found: list[str | Call]) -> bool:
        inside, closing, after = self._held.partition(CLOSING)
        if not closing:
            return False
        calls = _calls(inside)
        found += [self._space + OPENING + inside + CLOSING] if calls is None else calls
        self._held, self._mark, self._space, self._state = after, "", "", "text"
        return True


def call_id(job_id: str, choice: int, number: int) -> str:
    """Returns the id of a call: the same for every reader of the job."""
    left = int.from_bytes(hashlib.sha256(f"{job_id}:{choice}:{number}".encode()).digest())
    characters = []
    for _ in range(ID_LENGTH):
        left, digit = divmod(left, len(ID_CHARACTERS))
        characters.append(ID_CHARACTERS[digit])
    return "".join(characters)


def _calls(text: str) -> list[Call] | None:
    """Returns the calls in a text. None means that the text has anything else."""
    name, mark, arguments = text.partition(ARGUMENTS_MARK)
    if mark:
        call = _call({"name": name.strip(), "arguments": _json(arguments)})
        return None if call is None else [call]
    values: list[Any] = []
    rest = text.strip()
    while rest:
        try:
            value, end = _decoder.raw_decode(rest)
        except ValueError:
            return None
        values += value if isinstance(value, list) else [value]
        rest = rest[end:].lstrip().removeprefix(";").lstrip()
    calls = [_call(value) for value in values]
    found = [call for call in calls if call is not None]
    return found if found and len(found) == len(calls) else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _call(value: Any) -> Call | None:
    """Returns the call that a JSON value describes; None if it describes none."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    if not NAME.fullmatch(value["name"]):  # No tool has such a name, and no later turn could repeat it.
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # Some models write JSON in JSON.
        arguments = _json(arguments)
    if not isinstance(arguments, dict):
        return None
    return Call(value["name"], json.dumps(arguments, ensure_ascii=False))


def _may_be(mark: str, text: str) -> bool:
    """Whether a text begins with a mark, or may do so once more of it has come."""
    return text.startswith(mark) or mark.startswith(text)


def _end_that_may_be_a_mark(text: str) -> int:
    """Returns how many characters at the end of a text may be the beginning of a mark, with space before."""
    longest = max(map(len, MARKS)) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in MARKS):
            return len(text) - len(text[:-length].rstrip())
    return len(text) - len(text.rstrip())
