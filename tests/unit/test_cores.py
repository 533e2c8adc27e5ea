"""The number of cores that a container or an affinity mask allows, with made-up control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.control_groups import HOST_CORES, put_into_groups
from worker.cores import allowed_cores, usable_cores, variables_for_vllm

Limit = Callable[..., None]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Limit:
    """A function that puts this process into control groups. It may be called several times."""
    put_into_groups(monkeypatch, tmp_path)
    return partial(put_into_groups, monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000\n", HOST_CORES),
        ("200000 100000\n", 2),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("100000 50000\n", 2),
        ("9900000 100000\n", HOST_CORES),
    ],
)
def test_a_quota_is_rounded_down_but_leaves_a_core(limit: Limit, quota: str, expected: int) -> None:
    limit("0::/\n", **{"cpu.max": quota})
    assert usable_cores() == expected


def test_the_smallest_quota_on_the_way_up_counts(limit: Limit) -> None:
    limit(
        "0::/kubepods/pod/container\n",
        **{
            "kubepods/cpu.max": "1600000 100000\n",
            "kubepods/pod/cpu.max": "300000 100000\n",
            "kubepods/pod/container/cpu.max": "max 100000\n",
        },
    )
    assert usable_cores() == 3


@pytest.mark.parametrize("group", ["/docker/1f3a", "/../../docker/1f3a"])
def test_a_path_from_outside_the_container_leads_to_the_mount(limit: Limit, group: str) -> None:
    limit(f"0::{group}\n", **{"cpu.max": "400000 100000\n"})
    assert usable_cores() == 4


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "expected"), [("-1", HOST_CORES), ("150000", 1), ("800000", 8)])
def test_version_1_counts_as_well(limit: Limit, mount: str, quota: str, expected: int) -> None:
    group = f"{mount}/docker/1f3a"
    limit(
        f"9:name=systemd:/\n4:{mount}:/docker/1f3a\n3:cpuset:/docker/1f3a\n0::/\n",
        **{f"{group}/cpu.cfs_quota_us": quota, f"{group}/cpu.cfs_period_us": "100000"},
    )
    assert usable_cores() == expected


def test_version_2_beside_version_1_counts(limit: Limit) -> None:
    limit("4:memory:/\n0::/one\n", **{"unified/one/cpu.max": "500000 100000\n"})
    assert usable_cores() == 5


@pytest.mark.usefixtures("limit")
def test_without_control_groups_the_affinity_mask_counts() -> None:
    assert usable_cores() == HOST_CORES


@pytest.mark.usefixtures("limit")
def test_without_an_affinity_mask_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert allowed_cores() == list(range(12))
    assert usable_cores() == 12


def test_vllm_is_told_of_a_quota_only(limit: Limit) -> None:
    limit("0::/\n", **{"cpu.max": "max 100000\n"})
    assert variables_for_vllm() == {}
    limit("0::/\n", **{"cpu.max": "400000 100000\n"})
    assert variables_for_vllm() == {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "3"}


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no affinity masks")
def test_a_process_bound_to_one_core_counts_one() -> None:
    code = (
        "import os; from worker.cores import usable_cores; "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
