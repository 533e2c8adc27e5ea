"""How a model marks the reasoning that it writes before its answer: `<think>` reasoning `</think>` answer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

SHOWN_SINCE_VERSION = 2
"""The version of a record since which workers show marks that are special tokens, if the record has them."""


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """The marks around a model's reasoning.

    is_opened: the chat template ends with the opening mark, so an output begins inside the reasoning.
    version: what a worker must understand to run a job that has these marks in its record.
    """

    opening: str
    closing: str
    is_opened: bool
    version: int = 1

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None) -> ReasoningMarks | None:
        """Returns the marks. None if there are none. Fields that a later release added are ignored."""
        if not text:
            return None
        fields = json.loads(text)
        return cls(fields["opening"], fields["closing"], bool(fields["is_opened"]), int(fields["version"]))
