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
    if settings.engine is EngineKind.VLLM:
        return _load_vllm(settings)
    from worker.engine.transformers import TransformersEngine

    return TransformersEngine(settings)


def _load_vllm(settings: Settings) -> Engine:
    try:
        from worker.engine.vllm import VllmEngine
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise SettingsError(
            "ENGINE=vllm: vLLM is not installed here; worker/requirements-vllm.txt names what is needed"
        ) from None
    return VllmEngine(settings)
