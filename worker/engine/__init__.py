"""The engines, and how a worker gets the one that its settings name."""

from __future__ import annotations

from tasks.errors import SettingsError
from tasks.settings import EngineKind, Settings
from worker.engine.base import Engine


def load_engine(settings: Settings) -> Engine:
    """Load the model. Raises SettingsError or EngineError, naming what is wrong.

    Members are imported here: echo works where torch is not installed.
    """
    if settings.engine is EngineKind.ECHO:
        from worker.engine.echo import EchoEngine

        return EchoEngine(settings)
    if settings.engine is EngineKind.TRANSFORMERS:
        from worker.engine.transformers import TransformersEngine

        return TransformersEngine(settings)
    raise SettingsError(f"ENGINE={settings.engine} is not available in this release")
