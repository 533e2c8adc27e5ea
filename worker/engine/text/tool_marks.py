"""Shows the special tokens with which models mark calls of tools, in the outputs of jobs with tools.

Otherwise special tokens are no part of an output, and a call could not be told from text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker.engine.base import Decode

TOOL_MARKS = frozenset({"<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"})
"""How Hermes and Qwen, Mistral, and Llama 3 mark calls. `web/openai/tool_calls.py` reads them."""


def tool_marks(special_tokens: Mapping[int, str]) -> dict[int, str]:
    """Returns those of a model's special tokens that mark calls: id -> text."""
    return {token_id: text for token_id, text in special_tokens.items() if text in TOOL_MARKS}


def decode_with(marks: Mapping[int, str], decode: Decode) -> Decode:
    """Returns a decoder that shows the marks as well. The parts between marks are decoded separately."""

    def decode_marked(token_ids: Sequence[int]) -> str:
        texts: list[str] = []
        part: list[int] = []
        for token_id in token_ids:
            if token_id in marks:
                texts += [decode(part), marks[token_id]]
                part = []
            else:
                part.append(token_id)
        return "".join([*texts, decode(part)])

    return decode_marked
