"""Shows special tokens with which models mark parts of an output: calls of tools, and reasoning.

Otherwise special tokens are no part of an output, and a call or reasoning could not be told from text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from worker.engine.base import Decode, Prompt

TOOL_MARKS = frozenset({"<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"})
"""How Hermes and Qwen, Mistral, and Llama 3 mark calls. `web/openai/tool_calls.py` reads them."""


def showing(prompt: Prompt, marks: Collection[str]) -> Prompt:
    """Returns a prompt whose outputs show those of the marks that are special tokens of the model."""
    shown = {token_id: text for token_id, text in prompt.special_tokens.items() if text in marks}
    if not shown:
        return prompt
    hidden = {token_id: text for token_id, text in prompt.special_tokens.items() if token_id not in shown}
    decode = _decode_with(shown, prompt.decode)
    return replace(prompt, decode=decode, special_tokens=hidden, new_decoder=None)


def _decode_with(marks: Mapping[int, str], decode: Decode) -> Decode:
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
