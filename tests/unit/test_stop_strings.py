"""No stop string, and nothing after it, is shown to a reader."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.unit.small_tokenizers import (
    OTHER_SPECIAL,
    PROMPT,
    PROPERTY,
    PUSHES,
    SPECIAL,
    TOKENIZERS,
    byte_level_ids,
    continuation_ids,
    decode_of,
    shown,
    special_tokens_of,
    token_id,
)
from worker.engine.text.detokenizer import REPLACEMENT, Detokenizer
from worker.engine.text.stop_strings import StopStrings


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]


@PROPERTY
@given(
    text=st.text("abc", max_size=20),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    pushes=PUSHES,
)
def test_the_text_ends_before_the_stop_string_that_starts_first(
    text: str, stop: list[str], pushes: random.Random
) -> None:
    stops = StopStrings(stop)
    result, at = "", 0
    while at < len(text) and not stops.found:
        size = pushes.randint(1, 4)
        result += stops.push(text[at : at + size])
        at += size
        starts = [text.find(s) for s in stop if s in text]
        assert len(result) <= min(starts, default=len(text)), "a part of a stop string was shown"
    if not stops.found:
        result += stops.finish()
    assert result == text[: min((text.find(s) for s in stop if s in text), default=len(text))]
    assert stops.found == any(s in text for s in stop)


def test_only_the_possible_beginning_of_a_stop_string_is_held_back() -> None:
    stops = StopStrings(["###"])
    assert [stops.push(piece) for piece in ("one #", "two", " ##")] == ["one ", "#two", " "]
    assert stops.finish() == "##"


def test_a_match_waits_for_a_longer_one_that_began_earlier() -> None:
    assert [StopStrings(["abcd", "bc"]).push(text) for text in ("abc", "abcx", "abcd")] == ["", "a", ""]


def test_nothing_follows_a_stop_string() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    detokenizer = Detokenizer([], decode_of(tokenizer), ["stop"])
    assert detokenizer.push(tokenizer.encode("go on, stop here").ids) == "go on, "
    assert detokenizer.stopped
    assert detokenizer.push(tokenizer.encode("more").ids) + detokenizer.finish() == ""


@pytest.mark.parametrize(
    ("output", "stop", "text", "is_found"),
    [
        (" a</s> b", "</s>", " a", True),
        ("</s> a", "</s>", "", True),
        (" a</s> b</s>\n</s>", "</s>\n", " a b", True),
        (" a</s> b<|im_end|> c", " b<|im_end|>", " a", True),
        (" a</s></s></s> b", "</s></s></s>", " a", True),
        (" a</s></s> b", "</s></s></s>", " a b", False),
        (" a<|im_end|></s><|im_end|> b", "</s> b", " a", True),
        (" a</s> b c", "a b", " ", True),
        (" a</s>", "s", " a", False),
        (" a<|im_end|>", "<|im_end", " a", False),
        (" a", "</s>", " a", False),
    ],
)
def test_a_stop_string_may_name_special_tokens(
    tokenizer: Tokenizer, output: str, stop: str, text: str, is_found: bool
) -> None:
    """A special token is found whole or not at all, and does not hide other stop strings."""
    prompt_ids, ids = tokenizer.encode(PROMPT).ids, continuation_ids(tokenizer, output)
    for seed in range(5):
        options: Any = (decode_of(tokenizer), [stop], special_tokens_of(tokenizer))
        detokenizer = Detokenizer(prompt_ids, *options)
        assert shown(detokenizer, ids, random.Random(seed)) == text
        assert detokenizer.stopped is is_found


def test_of_several_stop_strings_the_first_ends_the_output() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    stop = [SPECIAL, "b c", f"{OTHER_SPECIAL} d"]
    for output, text in [("a b</s> c", "a b"), ("a b c</s>", "a "), ("a b<|im_end|> d c", "a b")]:
        detokenizer = Detokenizer([], decode_of(tokenizer), stop, special_tokens_of(tokenizer))
        assert shown(detokenizer, continuation_ids(tokenizer, output), random.Random(1)) == text
        assert detokenizer.stopped


def test_an_incomplete_character_before_a_special_stop_string_is_shown() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    detokenizer = Detokenizer([], decode_of(tokenizer), [SPECIAL], special_tokens_of(tokenizer))
    ids = [*byte_level_ids("é😀".encode()[:-1]), token_id(tokenizer, SPECIAL)]
    assert detokenizer.push(ids) == f"é{REPLACEMENT}"


def test_an_end_of_sequence_may_complete_a_stop_string() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    for stop, text in [(f" b{SPECIAL}", "a"), ("b</", "a b"), (OTHER_SPECIAL, "a b")]:
        detokenizer = Detokenizer([], decode_of(tokenizer), [stop], special_tokens_of(tokenizer))
        result = detokenizer.push(tokenizer.encode("a b").ids)
        result += detokenizer.push_end(token_id(tokenizer, SPECIAL)) + detokenizer.finish()
        assert result == text
        assert detokenizer.stopped is (text == "a")
