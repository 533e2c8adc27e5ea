"""Output that is decoded from a table has the tokenizer's own text."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders

from tests.unit.small_tokenizers import CORPUS, PIECES, PROPERTY, SPECIAL, TOKENIZERS, byte_level, decode_of
from worker.engine.text.byte_table import ByteTable, TableDecoder, byte_table

NAMES = ["byte-level", "straddling"]


class Fast:
    """A tokenizer of transformers that wraps one of `tokenizers`."""

    def __init__(self, backend: Tokenizer) -> None:
        self.backend_tokenizer = backend


def table_of(tokenizer: Tokenizer) -> ByteTable | None:
    return byte_table(Fast(tokenizer), decode_of(tokenizer))


TABLES = {name: table for name in NAMES if (table := table_of(TOKENIZERS[name])) is not None}


def byte_ids(name: str) -> dict[bytes, int]:
    """The ids that are a single byte."""
    return {one: token_id for token_id, one in TABLES[name].data.items() if len(one) == 1}


def shown(table: ByteTable, ids: Sequence[int]) -> str:
    decoder = TableDecoder(table)
    return "".join(map(decoder.push, ids)) + decoder.finish()


def test_byte_level_tokenizers_have_a_table() -> None:
    assert list(TABLES) == NAMES
    for name, table in TABLES.items():
        assert len(table.data) == TOKENIZERS[name].get_vocab_size() - 2  # Two special tokens show nothing.


@PROPERTY
@given(name=st.sampled_from(NAMES), data=st.data())
def test_any_ids_have_the_text_of_the_full_decode(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() + 3), max_size=40))
    assert shown(TABLES[name], ids) == decode_of(tokenizer)(ids)


@PROPERTY
@given(name=st.sampled_from(NAMES), pieces=st.lists(PIECES, max_size=12))
def test_any_bytes_have_the_text_of_the_full_decode(name: str, pieces: list[bytes]) -> None:
    ids = [byte_ids(name)[bytes([byte])] for byte in b"".join(pieces)]
    assert shown(TABLES[name], ids) == decode_of(TOKENIZERS[name])(ids)


@pytest.mark.parametrize("name", NAMES)
def test_text_is_shown_as_soon_as_its_code_points_are_complete(name: str) -> None:
    tokenizer, table = TOKENIZERS[name], TABLES[name]
    for text in CORPUS:
        decoder, sent = TableDecoder(table), b""
        for token_id in tokenizer.encode(text).ids:
            before = len(sent.decode(errors="ignore"))
            sent += table.data[token_id]
            assert decoder.push(token_id) == sent.decode(errors="ignore")[before:]


def test_what_is_held_back_is_shown_once() -> None:
    decoder = TableDecoder(TABLES["byte-level"])
    first, second, third = (byte_ids("byte-level")[bytes([byte])] for byte in "猫".encode())
    assert decoder.push(first) + decoder.push(second) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""
    assert decoder.push(third) == "\ufffd"


def test_another_decoder_has_no_table() -> None:
    assert table_of(TOKENIZERS["byte-fallback"]) is None
    assert byte_table(object(), decode_of(TOKENIZERS["byte-level"])) is None


def test_a_decoder_that_looks_at_neighbours_has_no_table() -> None:
    tokenizer = byte_level()
    decode = decode_of(tokenizer)
    assert byte_table(Fast(tokenizer), lambda ids: re.sub(r"(\w)\1", r"\1", decode(ids))) is None
    assert byte_table(Fast(tokenizer), decode) is not None


def test_an_added_token_is_plain_text() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["<tool>", AddedToken(" две ", normalized=False), "é"])
    table = table_of(tokenizer)
    assert table is not None
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary[token] for token in ("<tool>", " две ", "é", SPECIAL, "a")]
    assert shown(table, ids) == decode_of(tokenizer)(ids)


def test_a_sequence_of_one_decoder_is_that_decoder() -> None:
    tokenizer = byte_level()
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel()])
    assert table_of(tokenizer) is not None
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    assert table_of(tokenizer) is None
