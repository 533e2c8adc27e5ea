"""The bytes that each id adds to an output's text: what a grammar's matcher has to know of a tokenizer.

They are found by decoding, not by reading the tokenizer's files, so that they agree with the text that
clients get (`Detokenizer`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from typing import Any

from tasks.errors import EngineError
from worker.engine.base import Decode
from worker.engine.text.byte_table import ByteTable
from worker.engine.text.detokenizer import REPLACEMENT

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
"""The name of an id that stands for one byte (byte fallback)."""

NEIGHBOURS = (
    "structured_outputs: this model's tokenizer changes a token's text with its neighbours, so outputs "
    "cannot be restricted"
)

SAMPLES, SAMPLE_IDS = 64, 32
"""How many random outputs are compared with their bytes, and how many ids each has."""


def token_bytes(
    tokenizer: Any, decode: Decode, table: ByteTable | None, special_ids: Collection[int], vocab_size: int
) -> list[bytes]:
    """Returns the bytes of each id below `vocab_size`; none for an id that shows nothing, or has no bytes.

    decode: without special tokens. table: of a byte-level tokenizer. special_ids: ids that `decode` leaves
        out.
    Raises EngineError where a text is not simply its tokens' bytes in a row.
    """
    if table is not None:
        return [table.data.get(token_id, b"") for token_id in range(vocab_size)]
    context = _context(tokenizer, decode, vocab_size)
    ids = [token_id for token_id in range(vocab_size) if token_id not in special_ids]
    found = {token_id: _bytes_after(context, token_id, tokenizer, decode) for token_id in ids}
    _check(context, found, decode)
    return [found.get(token_id, b"") for token_id in range(vocab_size)]


def _context(tokenizer: Any, decode: Decode, vocab_size: int) -> int:
    """Returns an id with a text. After it, a decoder keeps a space that it would strip at a text's start."""
    for token_id in range(vocab_size):
        text = decode((token_id,))
        if _byte_of(token_id, tokenizer) is not None:
            continue  # An invalid byte after it would change its text.
        if text.isalpha() and decode((token_id, token_id)).startswith(text):
            return token_id
    raise EngineError("structured_outputs: no token of this model has a text")


def _bytes_after(context: int, token_id: int, tokenizer: Any, decode: Decode) -> bytes:
    before, text = decode((context,)), decode((context, token_id))
    if not text.startswith(before):
        raise EngineError(NEIGHBOURS)
    text = text[len(before) :]
    if REPLACEMENT not in text:
        return text.encode()
    return _byte_of(token_id, tokenizer) or b""


def _byte_of(token_id: int, tokenizer: Any) -> bytes | None:
    """Returns the byte that an id stands for by its name; None for all other ids."""
    piece = BYTE_PIECE.fullmatch(str(tokenizer.convert_ids_to_tokens(token_id)))
    return bytes([int(piece[1], 16)]) if piece else None


def _check(context: int, found: dict[int, bytes], decode: Decode) -> None:
    """Raises EngineError where random outputs have another text than their bytes.

    found: the bytes of each id after `context`.
    """
    whole = [token_id for token_id, data in found.items() if data and _is_text(data)]
    drawn = random.Random(0)
    before = decode((context,))
    for _ in range(SAMPLES):
        sample: Sequence[int] = drawn.choices(whole, k=SAMPLE_IDS)
        expected = before + b"".join(found[token_id] for token_id in sample).decode()
        if decode((context, *sample)) != expected:
            raise EngineError(NEIGHBOURS)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
