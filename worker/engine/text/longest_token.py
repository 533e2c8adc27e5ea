"""Finds how many bytes a token has at most, so that far too long prompts need not be tokenized."""

from __future__ import annotations

import json
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel


def longest_token_bytes(tokenizer: Any) -> int | None:
    """Returns the UTF-8 bytes of a tokenizer's longest token; None where text may vanish without a token.

    Nothing vanishes in byte-level BPE, unless a normalizer or an added token's own rule strips spaces.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    described = json.loads(backend.to_str())
    vocabulary = backend.get_vocab(with_added_tokens=False)
    added = described["added_tokens"]
    keeps_everything = (
        described["normalizer"] is None
        and described["model"]["type"] == "BPE"
        and _keeps_everything(described["pre_tokenizer"])
        and vocabulary.keys() >= set(ByteLevel.alphabet())
        and not any(token["lstrip"] or token["rstrip"] for token in added)
    )
    if not keeps_everything:
        return None
    # In the vocabulary a character stands for a byte; an added token is plain text.
    return max(*map(len, vocabulary), *(len(token["content"].encode()) for token in added), 1)


def _keeps_everything(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Whether it cuts text into characters that stand for bytes, and leaves none out."""
    match pre_tokenizer:
        case {"type": "ByteLevel"}:
            return True
        case {"type": "Sequence", "pretokenizers": [*first, {"type": "ByteLevel"}]}:
            return all(one["type"] == "Split" and one["behavior"] != "Removed" for one in first)
        case _:
            return False
