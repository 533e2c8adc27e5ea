"""The engines, and how a worker gets the one that its settings name."""

from __future__ import annotations

import os

from tasks.errors import SettingsError
from tasks.settings import EngineKind, Settings
from worker.engine.base import Engine


def load_engine(settings: Settings) -> Engine:
    """Loads the model. Raises SettingsError or EngineError, which name what is wrong.

    The engines are imported here, so that echo works where torch is not installed.
    """
    if settings.engine is EngineKind.ECHO:
        from worker.engine.echo import EchoEngine

        return EchoEngine(settings)
    if settings.engine is EngineKind.VLLM:
        return _load_vllm(settings)
    _limit_spinning()
    from worker.engine.transformers.engine import TransformersEngine

    return TransformersEngine(settings)


def _limit_spinning() -> None:
    """Lets OpenMP's threads spin only briefly while they wait. To be called before torch is imported.

    By default they spin until the last thread has arrived. If that one has lost its core, they keep it from
    getting one: beside one other busy process, steps of 5 ms took up to 400. Without any spinning each
    operation waits for a wake-up, which costs 2 to 3 ms a step. The variables are those of GCC's OpenMP,
    which torch uses on Linux.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _load_vllm(settings: Settings) -> Engine:
    try:
        from worker.engine.vllm.engine import VllmEngine
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise SettingsError(
            "ENGINE=vllm: vLLM is not installed here; worker/requirements-vllm.txt names what is needed"
        ) from None
    return VllmEngine(settings)
