"""Tokenizers of unusual kinds give the ids and the texts of their models."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer
from transformers import ByT5Tokenizer

from tasks.errors import EngineError
from tasks.request import JobRequest
from tests.engine.tiny import engine_request, generate, save_model, settings_for
from worker.engine.text.detokenizer import Detokenizer
from worker.engine.text.prompts import PromptEncoder
from worker.engine.text.tokenizer import load_tokenizer
from worker.engine.transformers.engine import TransformersEngine

TEXT = "naïve café, «Жил-был лис», 昔々 🦊"
BYTE = 3
"""ByT5's id of byte 0."""


def encoder(folder: Path) -> PromptEncoder:
    return PromptEncoder(load_tokenizer(str(folder), str(folder)), "model", 4096)


@pytest.fixture
def byt5(tmp_path: Path) -> PromptEncoder:
    """ByT5's tokenizer, which is written in Python and has an id for each byte. The model has more ids."""
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
    """Models of the DeepSeek family name Llama's class, which gives other ids for their byte-level text."""
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


def test_a_damaged_tokenizer_file_is_reported_in_one_line(byte_level: Path) -> None:
    file = byte_level / "tokenizer.json"
    file.write_text(file.read_text().replace('"BPE"', '"None"'))
    with pytest.raises(EngineError, match=r"^MODEL_ID=model cannot be loaded: .+$"):
        load_tokenizer(str(byte_level), "model")


def save_sentencepiece(folder: Path, **training: Any) -> SentencePieceProcessor:
    """Saves a model that has a tokenizer.model and no other tokenizer file."""
    save_model(folder, "llama", vocab_size=512)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT, "the quick brown fox", "a small fox lived by the river"] * 9),
        model_writer=model,
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        **training,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return SentencePieceProcessor(model_proto=model.getvalue())


LLAMA_LIKE = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.mark.parametrize("options", [{}, LLAMA_LIKE, {"add_dummy_prefix": False}])
@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_sentencepiece_model_alone_is_a_tokenizer(
    tmp_path: Path, model_type: str, options: dict[str, Any]
) -> None:
    library = save_sentencepiece(tmp_path, model_type=model_type, **options)
    loaded = encoder(tmp_path)
    for text in ("a small fox", f"  {TEXT}  \n a", "\n", "🦊 昔", " the"):
        ids = library.encode(text)
        prompt = loaded.encode(JobRequest(prompt=text))
        assert list(prompt.token_ids) == [library.bos_id(), *ids]
        assert prompt.decode(ids) == library.decode(ids)
    output = library.encode(f"a {TEXT}")[1 if options.get("add_dummy_prefix") is False else 0 :]
    assert shown(loaded, output).lstrip() == library.decode(output).lstrip()


def test_a_sentencepiece_model_runs(tmp_path: Path) -> None:
    library = save_sentencepiece(tmp_path, model_type="bpe", **LLAMA_LIKE)
    engine = TransformersEngine(settings_for(tmp_path))
    prompt = engine.encode(JobRequest(prompt="a small fox"))
    [ids] = generate(engine, engine_request("one", prompt.token_ids, max_tokens=20))
    assert prompt.decode(ids) == library.decode([one for one in ids if one < library.get_piece_size()])


def test_special_tokens_of_a_sentencepiece_model(tmp_path: Path) -> None:
    """Control pieces are special tokens. Tokens of the configuration get the ids after the model's own."""
    library = save_sentencepiece(tmp_path, model_type="bpe", control_symbols=["<|im_end|>"], **LLAMA_LIKE)
    template = "{{ bos_token }}<|user|>{{ messages[0].content }}<|im_end|>"
    added = library.get_piece_size()
    config = {"chat_template": template, "extra_special_tokens": ["<|user|>"], "legacy": False}
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = encoder(tmp_path)
    [bos, eos, im_end] = library.piece_to_id(["<s>", "</s>", "<|im_end|>"])
    messages = [{"role": "user", "content": "the fox"}]
    prompt = loaded.encode(JobRequest.model_validate({"messages": messages}))
    text_ids = library.encode("the fox")
    assert library.id_to_piece(text_ids[0]) == "▁the"
    inner = prompt.token_ids[2:-1]
    assert prompt.token_ids == (bos, added, *inner, im_end)
    assert prompt.decode(prompt.token_ids) == library.decode(list(inner)) == "the fox"
    assert library.id_to_piece(inner[0])[0] != "▁", (
        "`legacy` is off, so there is no space after a special token"
    )
    assert {bos, eos, im_end, added} <= set(prompt.special_tokens)
    assert prompt.decode_token(im_end) == "<|im_end|>"
    assert prompt.decode_token(added) == "<|user|>"
    assert shown(loaded, [*text_ids, im_end, *text_ids], ["<|im_end|>"]) == " the fox"


def test_a_damaged_sentencepiece_model_is_reported_in_one_line(tmp_path: Path) -> None:
    save_sentencepiece(tmp_path, model_type="bpe")
    (tmp_path / "tokenizer.model").write_bytes(b"damaged")
    reason = r"^MODEL_ID=model cannot be loaded: tokenizer.model is not a sentencepiece model; .+$"
    with pytest.raises(EngineError, match=reason):
        load_tokenizer(str(tmp_path), "model")
