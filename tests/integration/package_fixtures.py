"""The product as other projects install it: a wheel, and an environment in which it is installed."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from harness.workers import ROOT
from tests.integration.programs import must_run, new_environment


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps")
    must_run(*pip, "--no-build-isolation", "--wheel-dir", folder, ROOT)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the programs of an environment with the wheel. Its dependencies are the tests' own."""
    folder = tmp_path_factory.mktemp("installed")
    programs = new_environment(folder)
    must_run(programs / "pip", "install", "--disable-pip-version-check", "--no-index", "--no-deps", wheel)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return programs
