"""What a reader is shown is the decoded output: all of it, once, and no stop string."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from worker.engine.text.detokenizer import REPLACEMENT, Detokenizer
from worker.engine.text.stop_strings import StopStrings

CORPUS = [
    "The old lighthouse keeper said: «naïve café, déjà vu».",
    "Быстрая лиса прыгает через ленивую собаку.",
    "東京は夜の七時。吾輩は猫である。名前はまだ無い。",
    "👩‍👩‍👧‍👦 family, 👍🏽 thumbs, 🇺🇳 flags, e\u0301 combining, \u200f rtl שלום",
    "tabs\tand\nlines\r\n  and   spaces, then 1234567890!",
]
SPECIAL = "</s>"
OTHER_SPECIAL = "<|im_end|>"
PROMPT = "Z"
"""No merge joins it to what follows."""

EVERY_TEXT = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(CORPUS), max_size=3).map(" ".join))
PIECES = st.sampled_from(
    [b"\xf0", b"\x9f", b"\x98", b"\x80", b"\x80\x80", b"\xe2", b"\x82\xac", b"\xff", b"a"]
)
PUSHES = st.integers(0, 2**32).map(random.Random)
# Building a tokenizer is what is slow, and it happens outside of the examples.
PROPERTY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def byte_level() -> Tokenizer:
    """As GPT-2's: any byte sequence has ids, and any ids decode, however invalid."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[SPECIAL, OTHER_SPECIAL],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def straddling() -> Tokenizer:
    """Byte-level with merges across code points, so that no id need end where a code point does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[SPECIAL, OTHER_SPECIAL],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(["😀😁😂🤣😃" * 9, "猫犬鳥魚" * 9, *CORPUS], trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As Llama's: spaces are ▁, unknown characters are byte ids, decode strips the first space."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=150, limit_alphabet=60, show_progress=False)
    base.train_from_iterator(CORPUS[:1] * 4 + ["the quick brown fox", "a naïve lighthouse"], trainer)
    pieces = [SPECIAL, OTHER_SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *base.get_vocab()]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([SPECIAL, OTHER_SPECIAL])
    return tokenizer


TOKENIZERS = {"byte-level": byte_level(), "straddling": straddling(), "byte-fallback": byte_fallback()}


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]


def decode_of(tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True)


def special_tokens_of(tokenizer: Tokenizer) -> dict[int, str]:
    return {token_id(tokenizer, text): text for text in (SPECIAL, OTHER_SPECIAL)}


def split_ids(tokenizer: Tokenizer, text: str, cut: float) -> tuple[list[int], list[int]]:
    """A text's ids as a prompt and its continuation; the prompt ends with a whole character."""
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


def shown(detokenizer: Detokenizer, output_ids: Sequence[int], pushes: random.Random) -> str:
    """Everything that is shown when the ids come in random portions."""
    texts, at = [], 0
    while at < len(output_ids):
        size = pushes.randint(0, 5)
        texts.append(detokenizer.push(output_ids[at : at + size]))
        at += size
    return "".join([*texts, detokenizer.finish()])


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
    """Ids may be any pieces of bytes, and cut characters anywhere."""

    def decode(ids: Sequence[int]) -> str:
        return b"".join(chunks[i] for i in ids).decode(errors="replace")

    ids = list(range(len(chunks)))
    assert shown(Detokenizer([], decode, []), ids, pushes) == decode(ids)


@PROPERTY
@given(raw=EVERY_TEXT.map(str.encode) | st.binary(max_size=24), pushes=PUSHES)
@example(raw="€a😀".encode() + b"\xff\xf0\x9f", pushes=random.Random(0))
def test_bytes_that_a_decoder_hides_until_a_character_is_complete(raw: bytes, pushes: random.Random) -> None:
    """ByT5's: an id is a byte, and an invalid byte shows nothing."""

    def decode(ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="ignore")

    assume(REPLACEMENT not in decode(raw))
    assert shown(Detokenizer([], decode, []), raw, pushes) == decode(raw)


def test_silent_ids_are_not_held_for_ever() -> None:
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
def test_a_resumed_choice_shows_what_an_undisturbed_one_shows(
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
    """Even where no id ends with a whole character."""
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("😀😁😂🤣😃😀😁😂🤣😃 猫").ids
    detokenizer = Detokenizer([], decode_of(tokenizer), [])
    text = ""
    for count, each in enumerate(ids, start=1):
        text += detokenizer.push([each])
        assert len(text) >= len(decode_of(tokenizer)(ids[: max(0, count - 3)]).rstrip(REPLACEMENT))


def test_an_invalid_byte_spoils_no_character_before_it() -> None:
    """Although the full decode makes U+FFFD of all neighbouring byte ids."""
    detokenizer = Detokenizer([], decode_of(TOKENIZERS["byte-fallback"]), [])
    cat, bad = byte_fallback_ids("猫".encode()), byte_fallback_ids(b"\xff")
    ids = [*cat, *bad, token_id(TOKENIZERS["byte-fallback"], "a"), *bad * 4, *cat]
    assert shown(detokenizer, ids, random.Random(1)) == "猫\ufffda\ufffd\ufffd\ufffd\ufffd猫"


def test_a_first_word_keeps_its_space_behind_the_prompt() -> None:
    tokenizer = TOKENIZERS["byte-fallback"]
    prompt_ids, space_a = tokenizer.encode("the").ids, tokenizer.encode(" a").ids[-2:]
    assert Detokenizer(prompt_ids, decode_of(tokenizer), []).push(space_a) == " a"


def test_a_first_word_keeps_its_space_behind_emoji_and_special_tokens() -> None:
    tokenizer = TOKENIZERS["byte-fallback"]
    prompt_ids = [*tokenizer.encode("the 😀😀").ids, token_id(tokenizer, SPECIAL)]
    space_a = tokenizer.encode(" a").ids[-2:]
    assert Detokenizer(prompt_ids, decode_of(tokenizer), []).push(space_a) == " a"


def test_spaces_are_kept_where_no_id_shows_by_itself() -> None:
    """Every character takes several bytes, and a lone space is stripped."""
    tokenizer, text = TOKENIZERS["byte-fallback"], "кот и 猫 и кот"
    ids = tokenizer.encode(text).ids
    assert Detokenizer([], decode_of(tokenizer), []).push(ids) == text
    assert Detokenizer(ids, decode_of(tokenizer), []).push(ids) == f" {text}"


@pytest.mark.parametrize("text", [" ", "  ", "   a", " \ufffd"])
def test_leading_spaces_without_a_prompt_are_as_the_full_decode_has_them(
    tokenizer: Tokenizer, text: str
) -> None:
    ids = tokenizer.encode(text).ids
    assert shown(Detokenizer([], decode_of(tokenizer), []), ids, random.Random(1)) == text


def test_special_tokens_show_nothing_and_leave_no_trace(tokenizer: Tokenizer) -> None:
    special = token_id(tokenizer, SPECIAL)
    ids = [i for each in tokenizer.encode("a 猫 😀 b").ids for i in (special, each, special)]
    assert shown(Detokenizer([], decode_of(tokenizer), []), ids, random.Random(1)) == decode_of(tokenizer)(
        ids
    )


@pytest.mark.parametrize("raw", [b"\xff" * 50, b"\xf0\x9f" * 30, "\ufffd".encode() * 30])
@pytest.mark.parametrize("name", ["byte-level", "byte-fallback"])
def test_real_replacement_characters_are_not_held_back_for_ever(name: str, raw: bytes) -> None:
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


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
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
    """A special token is found whole or not at all, and hides no stop string from sight."""
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


def continuation_ids(tokenizer: Tokenizer, output: str) -> list[int]:
    """Returns the ids of a text that follows a prompt, and may have special tokens."""
    ids: list[int] = []
    for part in re.split(f"({re.escape(SPECIAL)}|{re.escape(OTHER_SPECIAL)})", output):
        if part in (SPECIAL, OTHER_SPECIAL):
            ids.append(token_id(tokenizer, part))
        elif part:
            ids += tokenizer.encode(PROMPT + part).ids[len(tokenizer.encode(PROMPT).ids) :]
    return ids


def byte_level_ids(raw: bytes) -> list[int]:
    """One id per byte."""
    alphabet = "".join(map(byte_level_char, raw))
    return [token_id(TOKENIZERS["byte-level"], char) for char in alphabet]


def byte_fallback_ids(raw: bytes) -> list[int]:
    """One id per byte."""
    return [token_id(TOKENIZERS["byte-fallback"], f"<0x{byte:02X}>") for byte in raw]


def byte_level_char(byte: int) -> str:
    """GPT-2's printable stand-in for a byte (`bytes_to_unicode` in openai/gpt-2, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [b for b in range(256) if b not in printable].index(byte))


def token_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return found
