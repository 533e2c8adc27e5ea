"""Small tokenizers of three kinds, and their ids for texts and bytes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from worker.engine.text.detokenizer import Detokenizer

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
"""A prompt that no merge joins to the text after it."""

EVERY_TEXT = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(CORPUS), max_size=3).map(" ".join))
PIECES = st.sampled_from(
    [b"\xf0", b"\x9f", b"\x98", b"\x80", b"\x80\x80", b"\xe2", b"\x82\xac", b"\xff", b"a"]
)
PUSHES = st.integers(0, 2**32).map(random.Random)

# Building a tokenizer is slow, but it happens outside of the examples.
PROPERTY = settings(
    max_examples=2 * settings().max_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def byte_level() -> Tokenizer:
    """Returns a tokenizer like GPT-2's: any byte sequence has ids, and any ids decode, valid or not."""
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
    """Returns a byte-level tokenizer with merges across code points, so that ids may end inside of one."""
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
    """Returns a tokenizer like Llama's: spaces are ▁, unknown characters are byte ids, and decode strips the
    first space."""
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


def decode_of(tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True)


def special_tokens_of(tokenizer: Tokenizer) -> dict[int, str]:
    return {token_id(tokenizer, text): text for text in (SPECIAL, OTHER_SPECIAL)}


def shown(detokenizer: Detokenizer, output_ids: Sequence[int], pushes: random.Random) -> str:
    """Returns everything that is shown when the ids come in random portions."""
    texts, at = [], 0
    while at < len(output_ids):
        size = pushes.randint(0, 5)
        texts.append(detokenizer.push(output_ids[at : at + size]))
        at += size
    return "".join([*texts, detokenizer.finish()])


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
    """Returns an id for each byte."""
    alphabet = "".join(map(byte_level_char, raw))
    return [token_id(TOKENIZERS["byte-level"], char) for char in alphabet]


def byte_fallback_ids(raw: bytes) -> list[int]:
    """Returns an id for each byte."""
    return [token_id(TOKENIZERS["byte-fallback"], f"<0x{byte:02X}>") for byte in raw]


def byte_level_char(byte: int) -> str:
    """Returns GPT-2's printable character for a byte (`bytes_to_unicode` in openai/gpt-2, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [b for b in range(256) if b not in printable].index(byte))


def token_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return found
