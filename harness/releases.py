"""Two releases of the product for one fleet: this checkout, and an older or a newer one."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from harness.workers import ROOT

PARTS = ("tasks", "web", "worker", "harness", "tests")
NEW_FIELD = "novelty"
"""A field of the submit body that only the next release knows."""

NEXT_RELEASE = {
    "tasks/request.py": {
        "RECORD_VERSION = max(": f'SINCE_VERSION = {{**SINCE_VERSION, "{NEW_FIELD}": 1 + max('
        "SINCE_VERSION.values(), default=1)}\nRECORD_VERSION = max(",
        "    ignore_eos: bool": f"    {NEW_FIELD}: str | None = None\n    ignore_eos: bool",
    },
}
"""Changes that make this checkout the next release: file -> text to replace -> new text."""


@dataclass(frozen=True, slots=True)
class Release:
    """A checkout. knows_new_field: whether it accepts NEW_FIELD and runs jobs that have it."""

    name: str
    root: Path
    knows_new_field: bool = False


CURRENT = Release("current", ROOT)


def releases(folder: Path) -> list[Release]:
    """Returns this checkout and the last tag; without a tag, this checkout and a possible next release."""
    tag = _last_tag()
    return [CURRENT, _next_release(folder) if tag is None else _tagged(tag, folder)]


def _last_tag() -> str | None:
    found = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() if found.returncode == 0 else None


def _tagged(tag: str, folder: Path) -> Release:
    root, archive = folder / "last-release", folder / "last-release.tar"
    subprocess.run(["git", "archive", "--output", str(archive), tag], cwd=ROOT, check=True)
    with tarfile.open(archive) as files:
        files.extractall(root, filter="data")
    return Release(tag, root)


def _next_release(folder: Path) -> Release:
    root = folder / "next-release"
    for part in PARTS:
        shutil.copytree(
            ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
        )
    for name in NEXT_RELEASE:
        (root / name).write_text(next_release_of(name, (root / name).read_text()))
    return Release("next", root, knows_new_field=True)


def next_release_of(name: str, text: str) -> str:
    """Returns the text that a file of this checkout has in the next release."""
    for before, after in NEXT_RELEASE[name].items():
        assert text.count(before) == 1, f"{name} has changed: {before!r} is not there once"
        text = text.replace(before, after)
    return text
