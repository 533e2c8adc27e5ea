"""How many processor cores this process may use.

`os.cpu_count()` counts the machine's cores. A container may be limited to fewer, by a CPU quota (`docker run
--cpus 2`, a CPU limit in Kubernetes) or by an affinity mask (`--cpuset-cpus`, `taskset`). Threads beyond that
number only wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

MEMBERSHIP = Path("/proc/self/cgroup")
"""The control groups of this process, a line per hierarchy (man 7 cgroups)."""

MOUNTS = Path("/sys/fs/cgroup")
"""Where the hierarchies are mounted."""


def usable_cores() -> int:
    """Returns how many cores the affinity mask and the CPU quotas leave to this process, at least 1.

    A quota of 2.5 cores counts as 2: a third thread would use up the quota, and then all of them are stopped
    for the rest of the period.
    """
    return max(1, min([len(allowed_cores()), *_quotas()]))


def allowed_cores() -> list[int]:
    """Returns the ids of the cores in the affinity mask, of all cores where the system has no such mask."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def variables_for_vllm() -> dict[str, str]:
    """Returns what keeps vLLM's build for CPUs within a quota; by itself it reads only the affinity mask."""
    cores = usable_cores()
    if cores == len(allowed_cores()):
        return {}
    return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, cores - 1))}


def _quotas() -> Iterator[int]:
    """Yields the CPU quotas of this process' group and of all groups above it, in whole cores."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:  # This is not Linux.
        return
    for line in lines:
        # "0::/user.slice" in version 2 of cgroups, "4:cpu,cpuacct:/docker/1f3a" in version 1.
        _, controllers, group = line.split(":", 2)
        if not controllers:
            folders = [MOUNTS, MOUNTS / "unified"]
        elif "cpu" in controllers.split(","):
            folders = [MOUNTS / "cpu", MOUNTS / controllers]
        else:
            continue
        for folder in folders:
            yield from _quotas_above(folder, PurePosixPath(group))


def _quotas_above(mount: Path, group: PurePosixPath) -> Iterator[int]:
    """Yields the quotas from `group` up to the mount.

    In a container the mount itself may be the group, and the path from the host's root leads nowhere.
    """
    names = [name for name in group.parts if name not in ("/", "..")]
    for depth in range(len(names), -1, -1):
        cores = _quota(mount.joinpath(*names[:depth]))
        if cores is not None:
            yield cores


def _quota(folder: Path) -> int | None:
    """Returns a group's quota in whole cores, or None where it has none."""
    for read in (_read_v2, _read_v1):
        with suppress(OSError):
            quota, period = read(folder)
            return None if quota in ("max", "-1") else int(quota) // int(period)
    return None


def _read_v2(folder: Path) -> tuple[str, str]:
    """Returns quota and period in microseconds; "max" is no quota. Raises OSError."""
    quota, period = (folder / "cpu.max").read_text().split()
    return quota, period


def _read_v1(folder: Path) -> tuple[str, str]:
    """Returns quota and period in microseconds; "-1" is no quota. Raises OSError."""
    quota, period = (folder / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
    return quota.read_text().strip(), period.read_text().strip()
