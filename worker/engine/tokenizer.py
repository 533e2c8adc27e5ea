"""Loads a model's tokenizer, or says in one line why that cannot be."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer

from tasks.errors import EngineError, first_line


def load_tokenizer(source: str, model_id: str) -> Any:
    """Return the tokenizer of a model. Raises EngineError where it cannot be loaded.

    source: a folder or a hub id. model_id: as the settings name it.
    """
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, ImportError) as error:
        raise EngineError(f"MODEL_ID={model_id} cannot be loaded: {first_line(error)}") from error
