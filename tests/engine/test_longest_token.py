"""A prompt's bytes give a lower bound of its tokens, for tokenizers where this is certain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from tasks.errors import PromptTooLongError
from tasks.messages import Message
from tasks.request import JobRequest
from tasks.settings import Settings
from tests.engine.tiny import save_model, tokenizer
from worker.engine.model_files import model_source
from worker.engine.text.longest_token import longest_token_bytes
from worker.engine.text.prompts import QUICK_CHARACTERS, PromptEncoder
from worker.engine.text.tokenizer import load_tokenizer

SETTINGS = Settings()
BUNDLED = load_tokenizer(model_source(SETTINGS), SETTINGS.model_id)
TINY = tokenizer()
SPACES_AND_MARKS = st.text(st.sampled_from(" \n\ta.é🦊")) | st.just("</s>") | st.text()


@pytest.mark.parametrize("known", [BUNDLED, TINY], ids=["bundled", "tiny"])
@settings(deadline=None)
@given(parts=st.lists(SPACES_AND_MARKS))
def test_no_text_has_fewer_tokens(known: Any, parts: list[str]) -> None:
    text = "".join(parts)
    longest = longest_token_bytes(known)
    assert longest is not None
    assert len(known(text)["input_ids"]) * longest >= len(text.encode())


def test_it_is_the_longest_of_the_vocabulary_and_the_added_tokens() -> None:
    own = tokenizer()
    vocabulary = own.backend_tokenizer.get_vocab(with_added_tokens=False)
    assert longest_token_bytes(own) == max(map(len, vocabulary))
    own.add_tokens(["🦊" * 20])
    assert longest_token_bytes(own) == 80


def strip_spaces(own: Any) -> None:
    own.add_tokens([AddedToken("<mask>", lstrip=True)])


def compose(own: Any) -> None:
    own.backend_tokenizer.normalizer = normalizers.NFC()


def split_words(own: Any) -> None:
    own.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()


def split_words_before(own: Any) -> None:
    own.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel()]
    )


def know_no_bytes(own: Any) -> None:
    own.backend_tokenizer.model = models.BPE({"a": 0, "b": 1}, [])


@pytest.mark.parametrize("change", [strip_spaces, compose, split_words, split_words_before, know_no_bytes])
def test_there_is_no_bound_if_text_may_vanish(change: Any) -> None:
    own = tokenizer()
    change(own)
    assert longest_token_bytes(own) is None


def test_bytes_that_are_kept_by_splits_count() -> None:
    own = tokenizer()
    own.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.ByteLevel()]
    )
    assert longest_token_bytes(own) == longest_token_bytes(TINY)


def test_a_prompt_that_is_far_too_long_is_refused_by_its_bytes(tmp_path: Path) -> None:
    save_model(tmp_path)
    longest = longest_token_bytes(TINY)
    assert longest is not None
    served = QUICK_CHARACTERS // longest + 1
    prompts = PromptEncoder(load_tokenizer(str(tmp_path), "model"), "model", served)
    too_long = "a" * (served * longest)
    assert prompts.encode(JobRequest(prompt=too_long[1:])).token_ids, "it is tokenized, and refused later"
    message = (
        rf"^the prompt has at least {served} tokens; the length served is {served}, and one of them must be"
    )
    with pytest.raises(PromptTooLongError, match=message):
        prompts.encode(JobRequest(prompt=too_long))
    with pytest.raises(PromptTooLongError, match="at least"):
        prompts.encode(JobRequest(messages=[Message(role="user", content=too_long)]))


def test_a_short_prompt_that_is_too_long_is_counted(tmp_path: Path) -> None:
    save_model(tmp_path)
    prompts = PromptEncoder(load_tokenizer(str(tmp_path), "model"), "model", max_model_len=10)
    assert len(prompts.encode(JobRequest(prompt="a" * 1000)).token_ids) > 10
