"""How many threads the engine computes with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.control_groups import put_into_groups
from worker.engine.loading import _spare_a_core


@pytest.fixture(autouse=True)
def eight_threads() -> Iterator[None]:
    """What torch would take: as many as OMP_NUM_THREADS, or as the machine has cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("quota", "threads"), [("max", 8), ("400000", 3), ("100000", 1)])
def test_one_core_of_a_quota_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, threads: int
) -> None:
    put_into_groups(monkeypatch, tmp_path, "0::/\n", **{"cpu.max": f"{quota} 100000\n"})
    _spare_a_core()
    assert torch.get_num_threads() == threads
