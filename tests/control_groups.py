"""Made-up control groups on a host of many cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker import cores

HOST_CORES = 64


def put_into_groups(
    monkeypatch: pytest.MonkeyPatch, folder: Path, membership: str = "", **files: str
) -> None:
    """Makes `worker.cores` read control groups that are written below `folder`.

    membership: the text of /proc/self/cgroup; empty: the system has no control groups.
    files: the text of files below /sys/fs/cgroup.
    """
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(HOST_CORES)), raising=False)
    monkeypatch.setattr(cores, "MEMBERSHIP", folder / "membership")
    monkeypatch.setattr(cores, "MOUNTS", folder / "cgroup")
    if membership:
        (folder / "membership").write_text(membership)
    for name, text in files.items():
        file = folder / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
