"""The files that a model comes with."""

from __future__ import annotations

from pathlib import Path

from transformers.utils.hub import cached_file


def model_file(source: str, name: str) -> Path | None:
    """Return the path of one of a model's files, fetched from the hub if need be; None where there is none.

    source: a folder or a hub id.
    """
    try:
        path = cached_file(source, name)
    except OSError:
        return None
    return None if path is None else Path(path)
