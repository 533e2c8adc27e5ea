"""Finds the token ids that end a sequence, the same for every engine that runs a model."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from tasks.errors import EngineError
from worker.engine.model_files import model_file

KEY = "eos_token_id"

logger = logging.getLogger(__name__)


def find_eos_ids(source: str, tokenizer: Any, vocab_size: int) -> frozenset[int]:
    """Returns the ids that end a sequence: all that any of the model's files or its tokenizer names.

    Chat models often name their end of turn in only one of these places, and another id in the others. An id
    outside of the vocabulary (a class' default, or -1) cannot occur, so it is left out.

    source: a folder or a hub id. vocab_size: how many ids the model can generate.
    Raises EngineError where a file is damaged.
    """
    named = {token_id for token_id in _named_ids(source, tokenizer) if 0 <= token_id < vocab_size}
    if not named:
        logger.warning("this model names no end of sequence: its outputs end at max_tokens or a stop string")
    return frozenset(named)


def _named_ids(source: str, tokenizer: Any) -> Iterator[int]:
    # The files themselves, because transformers' classes have default ids, which are other models' ids.
    config = _read(source, "config.json")
    yield from _ids(config.get(KEY))
    text_config = config.get("text_config")
    if isinstance(text_config, dict):
        yield from _ids(text_config.get(KEY))
    yield from _ids(_read(source, "generation_config.json").get(KEY))
    yield from _ids(tokenizer.eos_token_id)


def _ids(value: Any) -> Iterator[int]:
    """Yields the ids of a value that is one id, a list of ids or neither."""
    for token_id in value if isinstance(value, list) else [value]:
        if isinstance(token_id, int):
            yield token_id


def _read(source: str, name: str) -> dict[str, Any]:
    """Returns one of the model's JSON files; an empty object where the model has no such file."""
    path = model_file(source, name)
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EngineError(f"MODEL_ID={source} cannot be loaded: {name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise EngineError(f"MODEL_ID={source} cannot be loaded: {name} is not a JSON object")
    return content
