"""Loads a model's tokenizer, or says in one line why that cannot be."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tasks.errors import EngineError, first_line
from worker.engine.model_files import model_file


def load_tokenizer(source: str, model_id: str) -> Any:
    """Returns the tokenizer of a model. Raises EngineError where it cannot be loaded.

    If there is a tokenizer.json, it alone decides. The class that a model's config names would build its own
    tokenizer from the vocabulary, which gives other ids and another text if the name is wrong.

    source: a folder or a hub id. model_id: as the settings name it.
    """
    try:
        return _load(source)
    except Exception as error:  # `tokenizers` raises nothing more special, other classes raise anything.
        raise EngineError(f"MODEL_ID={model_id} cannot be loaded: {first_line(error)}") from error


def _load(source: str) -> Any:
    if model_file(source, "tokenizer.json") is not None:
        return PreTrainedTokenizerFast.from_pretrained(source)
    path = model_file(source, "tokenizer.model")
    if path is None:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    # Few models need it.
    from worker.engine.text.sentencepiece_tokenizer import SentencePieceTokenizer, is_sentencepiece

    if is_sentencepiece(path):
        return SentencePieceTokenizer.from_pretrained(source)
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (ValueError, ImportError) as error:
        raise ValueError(f"tokenizer.model is not a sentencepiece model; {first_line(error)}") from error
