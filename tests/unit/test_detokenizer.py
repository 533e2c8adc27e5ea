"""The text that a reader is shown is the decoded output: all of it, once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.unit.small_tokenizers import (
    EVERY_TEXT,
    PIECES,
    PROPERTY,
    PUSHES,
    SPECIAL,
    TOKENIZERS,
    byte_fallback_ids,
    byte_level_ids,
    decode_of,
    shown,
    special_tokens_of,
    token_id,
)
from worker.engine.text.detokenizer import REPLACEMENT, Detokenizer


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]


def split_ids(tokenizer: Tokenizer, text: str, cut: float) -> tuple[list[int], list[int]]:
    """Returns the ids of a prompt and of its continuation. The prompt ends with a whole character."""
    at = round(len(text) * cut)
    decode = decode_of(tokenizer)
    ids = tokenizer.encode(text).ids
    for length in range(len(ids) + 1):
        prompt = decode(ids[:length])
        if len(prompt) >= at and REPLACEMENT not in prompt and text.startswith(prompt):
            return ids[:length], ids[length:]
    return ids, []


def full_text(tokenizer: Tokenizer, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> str:
    decode = decode_of(tokenizer)
    return decode([*prompt_ids, *output_ids])[len(decode(prompt_ids)) :]


@PROPERTY
@given(name=st.sampled_from(list(TOKENIZERS)), text=EVERY_TEXT, cut=st.floats(0, 1), pushes=PUSHES)
def test_the_text_is_the_decoded_output(name: str, text: str, cut: float, pushes: random.Random) -> None:
    tokenizer = TOKENIZERS[name]
    prompt_ids, output_ids = split_ids(tokenizer, text, cut)
    detokenizer = Detokenizer(prompt_ids, decode_of(tokenizer), [])
    assert shown(detokenizer, output_ids, pushes) == full_text(tokenizer, prompt_ids, output_ids)


@PROPERTY
@given(name=st.sampled_from(["byte-level", "straddling"]), data=st.data(), pushes=PUSHES)
def test_byte_level_is_exact_for_any_ids(name: str, data: st.DataObject, pushes: random.Random) -> None:
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=40))
    detokenizer = Detokenizer([], decode_of(tokenizer), [])
    assert shown(detokenizer, ids, pushes) == decode_of(tokenizer)(ids)


@PROPERTY
@given(raw=st.binary(max_size=24), pushes=PUSHES)
def test_byte_level_is_exact_for_any_bytes(raw: bytes, pushes: random.Random) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    detokenizer = Detokenizer([], decode_of(tokenizer), [])
    assert shown(detokenizer, byte_level_ids(raw), pushes) == raw.decode(errors="replace")


@PROPERTY
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=5), max_size=12)
    | st.lists(st.lists(PIECES, min_size=1, max_size=3).map(b"".join), max_size=12),
    pushes=PUSHES,
)
@example(chunks=[b"\xf0", b"\x9f", b"\x98", b"\x80\x80", b"\xff", b"a"], pushes=random.Random(0))
def test_byte_level_is_exact_for_any_vocabulary(chunks: list[bytes], pushes: random.Random) -> None:
    """Ids may be any pieces of bytes, and split characters anywhere."""

    def decode(ids: Sequence[int]) -> str:
        return b"".join(chunks[i] for i in ids).decode(errors="replace")

    ids = list(range(len(chunks)))
    assert shown(Detokenizer([], decode, []), ids, pushes) == decode(ids)


@PROPERTY
@given(raw=EVERY_TEXT.map(str.encode) | st.binary(max_size=24), pushes=PUSHES)
@example(raw="€a😀".encode() + b"\xff\xf0\x9f", pushes=random.Random(0))
def test_bytes_that_a_decoder_hides_until_a_character_is_complete(raw: bytes, pushes: random.Random) -> None:
    """In ByT5's tokenizer, an id is a byte, and an invalid byte shows nothing."""

    def decode(ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="ignore")

    assume(REPLACEMENT not in decode(raw))
    assert shown(Detokenizer([], decode, []), raw, pushes) == decode(raw)


def test_ids_without_text_are_not_held_back_forever() -> None:
    decoded: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        decoded.append(len(ids))
        return bytes(ids).decode(errors="ignore")

    detokenizer = Detokenizer([], decode, [])
    assert detokenizer.push([0xFF] * 100 + [*"é".encode()]) == "é"
    assert max(decoded) <= 8


@pytest.mark.parametrize("text", ["\ufffd\x80", "\ufffd猫", "\ufffd😀", "a\ufffd\ufffdé", "\ufffdx"])
def test_byte_fallback_shows_a_real_replacement_character(text: str) -> None:
    detokenizer = Detokenizer([], decode_of(TOKENIZERS["byte-fallback"]), [])
    pushed = [detokenizer.push([token_id]) for token_id in byte_fallback_ids(text.encode())]
    assert "".join(pushed) + detokenizer.finish() == text


@PROPERTY
@given(text=st.text(max_size=12), raw=st.binary(max_size=8), pushes=PUSHES)
@example(text="\ufffd\x80", raw=b"", pushes=random.Random(0))
def test_byte_fallback_keeps_characters_around_invalid_bytes(
    text: str, raw: bytes, pushes: random.Random
) -> None:
    tokenizer = TOKENIZERS["byte-fallback"]
    marked = f"猫{text}".encode() + raw + b"\xff\xff\xff" + "東a".encode()
    detokenizer = Detokenizer([], decode_of(tokenizer), [])
    result = shown(detokenizer, byte_fallback_ids(marked), pushes)
    assert result.startswith(f"猫{text}")
    assert result.endswith(f"{REPLACEMENT}東a")


@PROPERTY
@given(
    name=st.sampled_from(list(TOKENIZERS)),
    data=st.data(),
    stop=st.lists(st.lists(st.sampled_from([*"the o猫é😀", SPECIAL]), min_size=1, max_size=4), max_size=2),
    pushes=PUSHES,
)
def test_a_resumed_choice_shows_the_same_text_as_an_uninterrupted_one(
    name: str, data: st.DataObject, stop: list[list[str]], pushes: random.Random
) -> None:
    tokenizer = TOKENIZERS[name]
    any_id = st.integers(0, tokenizer.get_vocab_size() - 1) | st.sampled_from(
        [*special_tokens_of(tokenizer), *tokenizer.encode("the 猫 o").ids]
    )
    ids = data.draw(
        st.one_of(
            EVERY_TEXT.map(lambda text: tokenizer.encode(text).ids),
            st.lists(any_id, max_size=30),
        )
    )
    cut = data.draw(st.integers(0, len(ids)))
    options: Any = (decode_of(tokenizer), ["".join(one) for one in stop], special_tokens_of(tokenizer))
    undisturbed = shown(Detokenizer([], *options), ids, pushes)

    before = Detokenizer([], *options).push(ids[:cut])
    resumed = Detokenizer.resume([], ids[:cut], len(before), *options)
    assert resumed.push(()) == ""
    assert before + shown(resumed, ids[cut:], pushes) == undisturbed


@pytest.mark.parametrize("shown_chars", range(12))
def test_resume_neither_repeats_nor_leaves_out_a_character(shown_chars: int) -> None:
    tokenizer = TOKENIZERS["byte-level"]
    decode, ids = decode_of(tokenizer), tokenizer.encode("Hello world").ids
    resumed = Detokenizer.resume([], ids[:3], shown_chars, decode, [])
    assert resumed.push(ids[3:]) + resumed.finish() == "Hello world"[shown_chars:]


@pytest.mark.parametrize("name", ["byte-level", "straddling"])
def test_at_most_three_ids_are_held_back(name: str) -> None:
    """This holds even if no id ends with a whole character."""
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("😀😁😂🤣😃😀😁😂🤣😃 猫").ids
    detokenizer = Detokenizer([], decode_of(tokenizer), [])
    text = ""
    for count, each in enumerate(ids, start=1):
        text += detokenizer.push([each])
        assert len(text) >= len(decode_of(tokenizer)(ids[: max(0, count - 3)]).rstrip(REPLACEMENT))


def test_an_invalid_byte_spoils_no_character_before_it() -> None:
    """The full decode turns all neighbouring byte ids into U+FFFD."""
    detokenizer = Detokenizer([], decode_of(TOKENIZERS["byte-fallback"]), [])
    cat, bad = byte_fallback_ids("猫".encode()), byte_fallback_ids(b"\xff")
    ids = [*cat, *bad, token_id(TOKENIZERS["byte-fallback"], "a"), *bad * 4, *cat]
    assert shown(detokenizer, ids, random.Random(1)) == "猫\ufffda\ufffd\ufffd\ufffd\ufffd猫"


def test_a_first_word_keeps_its_space_after_the_prompt() -> None:
    tokenizer = TOKENIZERS["byte-fallback"]
    prompt_ids, space_a = tokenizer.encode("the").ids, tokenizer.encode(" a").ids[-2:]
    assert Detokenizer(prompt_ids, decode_of(tokenizer), []).push(space_a) == " a"


def test_a_first_word_keeps_its_space_after_emoji_and_special_tokens() -> None:
    tokenizer = TOKENIZERS["byte-fallback"]
    prompt_ids = [*tokenizer.encode("the 😀😀").ids, token_id(tokenizer, SPECIAL)]
    space_a = tokenizer.encode(" a").ids[-2:]
    assert Detokenizer(prompt_ids, decode_of(tokenizer), []).push(space_a) == " a"


def test_spaces_are_kept_if_no_id_has_a_text_by_itself() -> None:
    """Every character takes several bytes, and `decode` strips a single space."""
    tokenizer, text = TOKENIZERS["byte-fallback"], "кот и 猫 и кот"
    ids = tokenizer.encode(text).ids
    assert Detokenizer([], decode_of(tokenizer), []).push(ids) == text
    assert Detokenizer(ids, decode_of(tokenizer), []).push(ids) == f" {text}"


@pytest.mark.parametrize("text", [" ", "  ", "   a", " \ufffd"])
def test_leading_spaces_without_a_prompt_equal_those_of_the_full_decode(
    tokenizer: Tokenizer, text: str
) -> None:
    ids = tokenizer.encode(text).ids
    assert shown(Detokenizer([], decode_of(tokenizer), []), ids, random.Random(1)) == text


def test_special_tokens_are_not_shown_and_change_no_text(tokenizer: Tokenizer) -> None:
    special = token_id(tokenizer, SPECIAL)
    ids = [i for each in tokenizer.encode("a 猫 😀 b").ids for i in (special, each, special)]
    assert shown(Detokenizer([], decode_of(tokenizer), []), ids, random.Random(1)) == decode_of(tokenizer)(
        ids
    )


@pytest.mark.parametrize("raw", [b"\xff" * 50, b"\xf0\x9f" * 30, "\ufffd".encode() * 30])
@pytest.mark.parametrize("name", ["byte-level", "byte-fallback"])
def test_real_replacement_characters_are_not_held_back_forever(name: str, raw: bytes) -> None:
    to_ids = byte_level_ids if name == "byte-level" else byte_fallback_ids
    detokenizer = Detokenizer([], decode_of(TOKENIZERS[name]), [])
    early = detokenizer.push(to_ids(raw))
    assert len(early) >= len(raw.decode(errors="replace")) - 3
    assert early + detokenizer.finish() == decode_of(TOKENIZERS[name])(to_ids(raw))


def test_the_cost_of_an_id_does_not_grow_with_the_output(tokenizer: Tokenizer) -> None:
    decoded: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        decoded.append(len(ids))
        return decode_of(tokenizer)(ids)

    special = token_id(tokenizer, SPECIAL)
    ids = [*tokenizer.encode("😀 the 猫" * 20).ids, *[special] * 200, *[tokenizer.get_vocab_size() - 1] * 200]
    Detokenizer([], decode, []).push(ids)
    assert max(decoded) <= 8
    assert len(decoded) <= 3 * len(ids)


def test_an_incomplete_character_is_shown_when_the_output_ends() -> None:
    detokenizer = Detokenizer([], decode_of(TOKENIZERS["byte-level"]), [])
    assert detokenizer.push(byte_level_ids("é😀".encode()[:-1])) == "é"
    assert detokenizer.finish() == REPLACEMENT
