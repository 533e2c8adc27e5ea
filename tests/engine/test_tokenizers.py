"""Tokenizers of kinds that differ from the usual one: their ids and their text are the model's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import ByT5Tokenizer

from tasks.errors import EngineError
from tasks.request import JobRequest
from tests.engine.tiny import save_model
from worker.engine.detokenizer import Detokenizer
from worker.engine.prompts import PromptEncoder
from worker.engine.tokenizer import load_tokenizer

TEXT = "naïve café, «Жил-был лис», 昔々 🦊"
BYTE = 3
"""ByT5's id of byte 0."""


def encoder(folder: Path) -> PromptEncoder:
    return PromptEncoder(load_tokenizer(str(folder), str(folder)), "model")


@pytest.fixture
def byt5(tmp_path: Path) -> PromptEncoder:
    """A tokenizer in Python, of bytes. The model has more ids than it."""
    save_model(tmp_path, vocab_size=512)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).unlink()
    tokenizer: Any = ByT5Tokenizer()
    tokenizer.save_pretrained(tmp_path)
    return encoder(tmp_path)


def shown(encoder: PromptEncoder, ids: list[int], stop: list[str] | None = None) -> str:
    prompt = encoder.encode(JobRequest(prompt="a"))
    detokenizer = Detokenizer(prompt.token_ids, prompt.decode, stop or [], prompt.special_tokens)
    return "".join([*(detokenizer.push([each]) for each in ids), detokenizer.finish()])


def test_a_tokenizer_in_python_shows_every_character(byt5: PromptEncoder) -> None:
    ids = [BYTE + byte for byte in TEXT.encode()]
    assert list(byt5.encode(JobRequest(prompt=TEXT)).token_ids) == [*ids, 1]
    assert shown(byt5, ids) == TEXT


@pytest.mark.parametrize("token_id", [300, 400, 511])
def test_an_id_without_a_text_shows_nothing(byt5: PromptEncoder, token_id: int) -> None:
    prompt = byt5.encode(JobRequest(prompt="a"))
    assert prompt.decode((token_id,)) == ""
    assert prompt.decode_token(token_id) in ("", prompt.special_tokens.get(token_id))
    fox = [BYTE + byte for byte in "🦊".encode()]
    assert shown(byt5, [token_id, *fox, token_id, token_id, *fox, token_id]) == "🦊🦊"


def test_a_stop_string_may_name_a_special_token_of_a_tokenizer_in_python(byt5: PromptEncoder) -> None:
    assert shown(byt5, [BYTE + ord("a"), 1, BYTE + ord("b")], ["</s>"]) == "a"


@pytest.fixture
def byte_level(tmp_path: Path) -> Path:
    return save_model(tmp_path, "llama")


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("name", ["LlamaTokenizerFast", "GemmaTokenizer", "T5TokenizerFast", "ByT5Tokenizer"])
def test_a_tokenizer_file_decides_whatever_class_the_config_names(byte_level: Path, name: str) -> None:
    """Models of the DeepSeek family name Llama's class, which makes other ids of their byte-level text."""
    change_config(byte_level, tokenizer_class=name)
    file = Tokenizer.from_file(str(byte_level / "tokenizer.json"))
    loaded = encoder(byte_level)
    text = f"  {TEXT}\n  the end </s> "
    prompt = loaded.encode(JobRequest(prompt=text))
    assert list(prompt.token_ids) == file.encode(text).ids
    assert shown(loaded, file.encode(TEXT).ids) == TEXT
    messages = [{"role": "user", "content": "hi"}]
    rendered = loaded.encode(JobRequest.model_validate({"messages": messages}))
    assert rendered.decode(rendered.token_ids) == "<user>hi<assistant>"


def test_a_damaged_tokenizer_file_is_told_in_one_line(byte_level: Path) -> None:
    file = byte_level / "tokenizer.json"
    file.write_text(file.read_text().replace('"BPE"', '"None"'))
    with pytest.raises(EngineError, match=r"^MODEL_ID=model cannot be loaded: .+$"):
        load_tokenizer(str(byte_level), "model")
