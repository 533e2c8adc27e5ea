"""What a worker does before it accepts jobs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.workers import ROOT

COUNT_OBJECTS = """
import gc
import worker.app
from tasks.settings import get_settings
from worker.bootstep import _load
engine = _load(get_settings())
print(len(gc.get_objects()), gc.get_freeze_count())
"""


@pytest.mark.parametrize(("engine", "at_least"), [("echo", 50_000), ("transformers", 200_000)])
def test_a_full_garbage_collection_has_nothing_to_look_at_once_the_engine_is_warm(
    engine: str, at_least: int
) -> None:
    environment = os.environ | {"ENGINE": engine, "MODEL_ID": "bundled", "REDIS_URL": "redis://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", COUNT_OBJECTS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    looked_at, frozen = map(int, done.stdout.split())
    assert looked_at < 1000
    assert frozen > at_least
