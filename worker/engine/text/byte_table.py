"""The bytes of each id of a byte-level tokenizer, to decode output without calling the tokenizer.

A call of the tokenizer costs several microseconds, and `IncrementalDecoder` needs two for most ids. With a
byte-level decoder the text of any ids is the text of their bytes in a row. So a look-up and Python's own
incremental UTF-8 decoder do the same for a tenth of the time, and exactly: invalid bytes become U+FFFD as in
`tokenizers`.
"""

from __future__ import annotations

import codecs
import json
import logging
import random
from collections.abc import Mapping
from typing import Any

from worker.engine.base import Decode

NONE: Mapping[int, str] = {}

SAMPLES, SAMPLE_IDS = 64, 64
"""How many random outputs are decoded both ways before a table is used, and how many ids each has."""

logger = logging.getLogger(__name__)


class ByteTable:
    """What each id contributes to the output. An id that shows nothing is left out."""

    def __init__(self, data: Mapping[int, bytes]) -> None:
        self.data = data
        self.texts = {token_id: text for token_id, one in data.items() if (text := _whole(one)) is not None}
        """The text of ids that begin and end with whole code points: nearly all of them."""


class TableDecoder:
    """Turns ids into text of complete code points, as `IncrementalDecoder` does, from a table."""

    def __init__(self, table: ByteTable) -> None:
        self._data, self._texts = table.data, table.texts
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_open = False
        """Whether the bytes so far end inside a code point."""

    def push(self, token_id: int) -> str:
        """Takes the next id. Returns the text to show now."""
        if not self._is_open:
            text = self._texts.get(token_id)
            if text is not None:
                return text
        text = self._utf8.decode(self._data.get(token_id, b""))
        self._is_open = bool(self._utf8.getstate()[0])
        return text

    @property
    def whole_texts(self) -> Mapping[int, str]:
        """The text of ids that may be shown at once; see `TextDecoder`."""
        return NONE if self._is_open else self._texts

    def finish(self) -> str:
        """Returns what is held back, incomplete code points as U+FFFD."""
        self._is_open = False
        return self._utf8.decode(b"", final=True)


def byte_table(tokenizer: Any, decode: Decode) -> ByteTable | None:
    """Returns the table of a tokenizer; None where its decoder is not byte-level, or a table would be wrong.

    tokenizer: of Hugging Face transformers. decode: what the table must agree with.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not _is_byte_level(json.loads(backend.to_str())["decoder"]):
        return None
    ids: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    shown = backend.decode_batch([[token_id] for token_id in ids.values()], skip_special_tokens=True)
    data: dict[int, bytes] = {}
    for (token, token_id), text in zip(ids.items(), shown, strict=True):
        one = _bytes_of(token)
        if not text:
            continue  # A special token.
        if one.decode(errors="replace") != text:
            logger.info("the tokenizer decodes %r as %r, so its output is decoded by itself", token, text)
            return None
        data[token_id] = one
    table = ByteTable(data)
    return table if _agrees(table, sorted(ids.values()), decode) else None


def _is_byte_level(decoder: Mapping[str, Any] | None) -> bool:
    match decoder:
        case {"type": "ByteLevel"} | {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}:
            return True
        case _:
            return False


def _alphabet() -> dict[str, int]:
    """Returns the byte that each character stands for in a byte-level vocabulary, as GPT-2 defined it.

    Printable characters of Latin-1 stand for themselves. The other bytes, in order, are the characters from
    U+0100 on.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + index): byte for index, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


ALPHABET = _alphabet()


def _bytes_of(token: str) -> bytes:
    """Returns a token's bytes. A token with another character is an added one, which is plain text."""
    try:
        return bytes(ALPHABET[character] for character in token)
    except KeyError:
        return token.encode()


def _whole(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _agrees(table: ByteTable, ids: list[int], decode: Decode) -> bool:
    """Whether random outputs have the same text both ways: a decoder may treat neighbours differently."""
    drawn = random.Random(0)
    for _ in range(SAMPLES):
        sample = drawn.choices(ids, k=SAMPLE_IDS)
        decoder = TableDecoder(table)
        text = "".join(map(decoder.push, sample)) + decoder.finish()
        if text != decode(sample):
            logger.info(
                "the tokenizer treats neighbouring tokens differently, so its output is decoded by itself"
            )
            return False
    return True
