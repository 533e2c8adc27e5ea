"""Divides outputs by the response template of a tokenizer, with the parser of transformers.

A response template tells how a model writes reasoning, answers and calls of functions. Models on the Hugging
Face hub begin to have one, as `response_template` in their `tokenizer_config.json`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers.utils.chat_parsing import ResponseParser
from transformers.utils.chat_parsing.response_templates import ResponseTemplate, load_response_template

from tasks.errors import first_line
from tasks.output_parts import Call, Part, Reasoning, joined
from tasks.tools import NAME_PATTERN

ANSWER, CALLS = "content", "tool_calls"
REASONING = frozenset({"thinking", "reasoning", "reasoning_content"})
TEXTS = REASONING | {ANSWER}
KNOWN = TEXTS | {CALLS, "role"}

UNREADABLE = (ValueError, LookupError, TypeError, RecursionError)
"""What is raised for a region that is no JSON, is nested too deep, or lacks what the template needs."""

logger = logging.getLogger(__name__)


def response_template(tokenizer: Any, model: str) -> ResponseTemplate | None:
    """Returns the response template of a tokenizer; None if it has none, or one that cannot be used."""
    template = getattr(tokenizer, "response_template", None)
    if template is None:
        return None
    try:
        loaded = load_response_template(template)
    except (ValueError, TypeError) as error:
        logger.warning(
            "the response template of %s is ignored, because it cannot be used: %s", model, first_line(error)
        )
        return None
    if unknown := sorted(loaded.fields.keys() - KNOWN):
        fields = ", ".join(unknown)
        logger.warning("the response template of %s has fields that no answer shows: %s", model, fields)
    return loaded


class ResponseDivider:
    """See `worker.engine.base.OutputDivider`.

    The parts depend on the text alone, and not on how much of it comes at a time, because the parser gets
    each character by itself. So a worker that takes a job over goes on exactly where the first one stopped.
    """

    def __init__(self, template: ResponseTemplate, prefix: str, tools: Sequence[dict[str, Any]] = ()) -> None:
        """prefix: the prompt as text, with special tokens.

        tools: those of the request, in OpenAI's shape. Without any, calls stay text.
        """
        self._template = template
        self._tools: list[dict[str, Any] | Callable[..., Any]] = [*tools]
        self._shown: set[str] = set()
        """The fields that have shown text."""
        self._begin(prefix)

    @property
    def is_in_reasoning(self) -> bool:
        return self._field in REASONING

    def push(self, text: str) -> list[Part]:
        found: list[Part] = []
        for character in text:
            self._raw += character
            try:
                found += self._take(self._parser.feed(character))
            except UNREADABLE:
                found.append(self._raw)
                self._begin("")
        return joined(found)

    def finish(self) -> list[Part]:
        try:
            _, events = self._parser.finalize()
            found = self._take(events)
        except UNREADABLE:
            found = [self._raw]
        self._begin("")
        return joined(found)

    def _begin(self, prefix: str) -> None:
        self._open("")
        self._parser = ResponseParser(self._template, prefix, tools=self._tools)
        self._raw = ""
        """The text since the last one that was shown, or since the end of the last call."""
        for event in self._parser.initial_events:  # What the prompt has already is no part of the output.
            self._open(event["field"] if event["type"] != "region_close" else "")

    def _open(self, field: str) -> None:
        """Begins a region. field: its name; empty where none is open."""
        self._field = field
        self._is_blank = True
        self._is_structured = False
        self._space = ""
        """White space that is only shown if more text comes in this region."""

    def _take(self, events: Sequence[Mapping[str, Any]]) -> list[Part]:
        found: list[Part] = []
        for event in events:
            match event["type"]:
                case "region_open":
                    self._open(event["field"])
                case "region_chunk" if event["dirty"]:
                    self._is_structured = True
                case "region_chunk":
                    after = self._raw.partition(event["text"])[2]
                    found += self._part(self._without_ends(event["text"]))
                    self._raw = self._space + after
                case "region_close":
                    found += self._close(event["value"])
                    # If the mark that begins the next region is there already, it stays known.
                    self._raw = "" if event is events[-1] else self._raw
        return found

    def _close(self, value: Any) -> list[Part]:
        found: list[Part] = []
        if self._field == CALLS:
            calls = _calls(value) if self._tools else None
            found = [self._raw] if calls is None else [*calls]
        elif self._is_structured:
            found = self._part(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        self._open("")
        return found

    def _without_ends(self, text: str) -> str:
        """Returns what may be shown of the region's text by now, if white space at its ends is left out."""
        field = self._template.fields[self._field]
        strips = field.content_args.get("strip", True)
        text = self._space + text
        self._space = ""
        if self._is_blank:
            begun = text.lstrip() if strips else text
            if not begun:
                self._space = text
                return ""
            self._is_blank = False
            if self._field not in self._shown:
                text = begun
            elif field.join is not None:
                text = field.join + begun
        shown = text.rstrip() if strips else text
        self._space = text[len(shown) :]
        return shown

    def _part(self, text: str) -> list[Part]:
        """Returns a text of the open region as a part, if it is of those that answers show."""
        if not text or self._field not in TEXTS:
            return []
        self._shown.add(self._field)
        return [Reasoning(text) if self.is_in_reasoning else text]


def _calls(value: Any) -> list[Call] | None:
    """Returns the calls of a region; None if its value is anything else."""
    found = [_call(one) for one in (value if isinstance(value, list) else [value])]
    calls = [call for call in found if call is not None]
    return calls if calls and len(calls) == len(found) else None


def _call(value: Any) -> Call | None:
    match value:
        case {"function": {"name": str(name), **rest}}:
            arguments = rest.get("arguments", {})
            if isinstance(arguments, str):  # Some models write JSON in JSON.
                arguments = json.loads(arguments)
            if isinstance(arguments, dict) and re.fullmatch(NAME_PATTERN, name):
                return Call(name, json.dumps(arguments, ensure_ascii=False))
    return None
