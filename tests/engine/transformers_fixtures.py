"""Engines on tiny models: `pytest_plugins = ["tests.engine.transformers_fixtures"]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny import WIDE, save_model, settings_for
from worker.engine.transformers.engine import TransformersEngine


@pytest.fixture(scope="module", params=[{}, WIDE["llama"]], ids=["torch", "native"])
def shape(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The model's shape. Narrow heads run with torch, wide ones with the native decoder if there is one."""
    changes: dict[str, Any] = request.param
    return changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shape: dict[str, Any]) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama", **shape)


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    return TransformersEngine(settings_for(folder))
