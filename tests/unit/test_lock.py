"""This checkout pins the version of everything that is installed."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "constraints.txt"
ENVIRONMENTS = ["deploy/requirements.txt", "requirements.txt"]
"""The light one and the whole one. The tests run in the whole one, which contains the light one."""

OTHER_PYTHONS = [
    {"python_full_version": f"{version}.0", "python_version": version, "sys_platform": system, "extra": ""}
    for version in ("3.11", "3.12", "3.13", "3.14")
    for system in ("linux", "darwin")
]
"""Values that environment markers may have on other machines."""


def requirements(path: Path) -> Iterator[Requirement]:
    """Yields the requirements of a file and of all files that it includes."""
    for line in path.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if included := re.match(r"-r (\S+)", text):
            yield from requirements(path.parent / included[1])
        elif text and not text.startswith("-c "):
            yield Requirement(text)


def pins(path: Path) -> dict[str, str]:
    """Returns name -> version. Raises AssertionError for a line that allows several versions."""
    found: dict[str, str] = {}
    for requirement in requirements(path):
        [specifier] = requirement.specifier
        assert specifier.operator == "==", requirement
        assert "*" not in specifier.version, requirement
        found[canonicalize_name(requirement.name)] = specifier.version
    return found


def installed_with(path: Path) -> set[str]:
    """Returns the names of all that pip installs for a requirements file, here or with another Python."""
    left = [(requirement, frozenset(requirement.extras)) for requirement in requirements(path)]
    found: dict[tuple[str, frozenset[str]], bool] = {}
    while left:
        requirement, extras = left.pop()
        key = canonicalize_name(requirement.name), extras
        if key in found:
            continue
        found[key] = True
        try:
            needed = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # It is not for this Python, but must be pinned too.
        for text in needed:
            child = Requirement(text)
            if is_needed(child, extras):
                left.append((child, frozenset(child.extras)))
    return {name for name, _ in found}


def is_needed(requirement: Requirement, extras: frozenset[str]) -> bool:
    return requirement.marker is None or any(
        requirement.marker.evaluate({**python, "extra": extra})
        for python in OTHER_PYTHONS
        for extra in ("", *extras)
    )


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_everything_that_is_installed_is_pinned(name: str) -> None:
    installed = installed_with(ROOT / name)
    assert {"kombu", "billiard", "vine"} <= installed
    assert installed - (pins(LOCK) | pins(ROOT / name)).keys() == set()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_pinned_versions_are_installed_here(name: str) -> None:
    pinned = pins(LOCK) | pins(ROOT / name)
    here = {}
    # Setuptools contains copies of some packages. They come after the real ones in the path.
    for one in reversed(list(importlib.metadata.distributions())):
        here[str(canonicalize_name(one.name))] = one.version
    wrong = {
        package: (here[package], pinned[package])
        for package in installed_with(ROOT / name) & here.keys() & pinned.keys()
        if here[package].partition("+")[0] != pinned[package]
    }
    assert wrong == {}


def test_every_environment_takes_the_lock() -> None:
    for path in (ROOT / "requirements.txt", *ROOT.glob("*/requirements*.txt")):
        assert "constraints.txt" in constraints(path), path


def constraints(path: Path) -> set[str]:
    found = set(re.findall(r"^-c (?:\.\./)*(\S+)", path.read_text(), re.MULTILINE))
    for included in re.findall(r"^-r (\S+)", path.read_text(), re.MULTILINE):
        found |= constraints(path.parent / included)
    return found


def test_the_lock_agrees_with_the_requirements_and_leaves_torch_and_the_index_to_them() -> None:
    locked = pins(LOCK)
    for name in ENVIRONMENTS:
        direct = pins(ROOT / name)
        assert {package: locked[package] for package in direct if package in locked}.items() <= direct.items()
    assert "torch" not in locked
    assert pins(ROOT / "requirements.txt")["torch"] == "2.13.0"
    assert "://" not in LOCK.read_text()


def test_the_packages_ranges_hold_what_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = [Requirement(text) for extra in project["optional-dependencies"].values() for text in extra]
    ranges += [Requirement(text) for text in project["dependencies"]]
    pinned = pins(ROOT / "requirements.txt")
    ours = [one for one in ranges if one.name != "tokenrelay"]
    assert [str(one) for one in ours if pinned[canonicalize_name(one.name)] not in one.specifier] == []
    named = {canonicalize_name(one.name) for one in ours}
    run_time = pins(ROOT / "deploy/requirements.txt") | pins(ROOT / "worker/requirements.txt")
    assert named == run_time.keys()


@pytest.mark.parametrize("package", ["web", "worker"])
def test_an_image_installs_the_pinned_versions_by_their_hashes(package: str) -> None:
    text = (ROOT / package / "requirements.lock").read_text()
    hashed = dict(re.findall(r"^([\w.-]+)==([\w.]+) \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE))
    pinned = pins(LOCK) | pins(ROOT / package / "requirements.txt")
    assert {canonicalize_name(name): version for name, version in hashed.items()}.items() <= pinned.items()
    needed = pins(ROOT / package / "requirements.txt").keys() - {"torch", "async-timeout"}
    assert needed <= {canonicalize_name(name) for name in hashed}
    assert "://" not in text
    dockerfile = (ROOT / package / "Dockerfile").read_text()
    assert f"--require-hashes -r {package}/requirements.lock" in dockerfile
