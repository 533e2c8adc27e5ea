"""What a worker does before it accepts jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.workers import ROOT

COUNT_OBJECTS = """
import gc
import worker.app
from tasks.settings import get_settings
from worker.bootstep import load
engine = load(get_settings())
print(len(gc.get_objects()), gc.get_freeze_count())
"""

COUNT_THREADS = """
import os
import torch
import worker.app
from tasks.settings import get_settings
from worker.bootstep import load
torch.set_num_threads(2)
engine = load(get_settings())
print(len(os.listdir("/proc/self/task")))
torch.randn(512, 512) @ torch.randn(512, 512)
print(len(os.listdir("/proc/self/task")))
"""


def run(program: str, engine: str) -> list[int]:
    """Returns the numbers that a program prints in a process of its own."""
    environment = os.environ | {"ENGINE": engine, "MODEL_ID": "bundled", "REDIS_URL": "redis://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(number) for number in done.stdout.split()]


@pytest.mark.parametrize(("engine", "at_least"), [("echo", 50_000), ("transformers", 200_000)])
def test_a_full_garbage_collection_has_nothing_to_look_at_once_the_engine_is_warm(
    engine: str, at_least: int
) -> None:
    looked_at, frozen = run(COUNT_OBJECTS, engine)
    assert looked_at < 1000
    assert frozen > at_least


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")
def test_the_load_leaves_no_threads_to_compute_with() -> None:
    """The engine's thread gets its own ones. With those of the load they would be more than the cores, and
    wait for each other by system calls.
    """
    loaded, computed = run(COUNT_THREADS, "transformers")
    assert computed == loaded + 1, "the process' first thread had threads to compute with already"
