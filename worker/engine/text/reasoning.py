"""Finds out whether a model writes reasoning before its answers, and how it marks it."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from tasks.reasoning_marks import SHOWN_SINCE_VERSION, ReasoningMarks

PAIRS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""Opening and closing marks: those of DeepSeek, Qwen and many others, and those of Mistral."""


def find_reasoning_marks(
    tokenizer: Any, generation_prompt: str, special_tokens: Container[str]
) -> ReasoningMarks | None:
    """Returns a model's marks; None if it has none, because no closing mark is a token of its vocabulary.

    generation_prompt: a conversation as the chat template renders it, up to where the model goes on.
    special_tokens: those that the texts of outputs leave out.
    """
    found = [
        ReasoningMarks(
            opening,
            closing,
            is_opened=generation_prompt.rstrip().endswith(opening),
            version=SHOWN_SINCE_VERSION if opening in special_tokens or closing in special_tokens else 1,
        )
        for opening, closing in PAIRS
        if _is_token(tokenizer, closing)
    ]
    return next((marks for marks in found if marks.is_opened), next(iter(found), None))


def _is_token(tokenizer: Any, text: str) -> bool:
    """Whether a text is a single token. A tokenizer may return the unknown token's id, or none."""
    token_id = tokenizer.convert_tokens_to_ids(text)
    return token_id is not None and tokenizer.convert_ids_to_tokens(token_id) == text
