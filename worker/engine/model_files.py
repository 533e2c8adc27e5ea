"""Finds a model's files: of the bundled model, in a local folder or on the hub."""

from __future__ import annotations

from pathlib import Path

from transformers.utils.hub import cached_file

from tasks.errors import SettingsError
from tasks.settings import Settings, model_folder

BUNDLED_MODEL = Path(__file__).parent.parent / "models" / "bundled"


def model_file(source: str, name: str) -> Path | None:
    """Returns the path of a model's file, fetched from the hub if necessary; None where there is none.

    source: a folder or a hub id.
    """
    try:
        path = cached_file(source, name)
    except OSError:
        return None
    return None if path is None else Path(path)


def model_source(settings: Settings) -> str:
    """Returns the folder or hub id to load from. Raises SettingsError where there is no such folder."""
    if settings.model_id == "bundled":
        if not BUNDLED_MODEL.is_dir():
            raise SettingsError(f"MODEL_ID=bundled: this installation has no {BUNDLED_MODEL}")
        return str(BUNDLED_MODEL)
    folder = model_folder(settings.model_id)
    if folder is None:
        return settings.model_id
    if not folder.is_dir():
        raise SettingsError(f"MODEL_ID={settings.model_id}: there is no such folder")
    return str(folder)
