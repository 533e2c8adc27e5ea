"""The product as other projects install it: a wheel, and an environment that has it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.integration.serve_harness import FOREIGN_VARIABLES
from tests.integration.workers import ROOT

INSTALL_SECONDS = 110


def run(*command: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
    )


def must_run(*command: str | Path, **options: Any) -> str:
    """What it printed."""
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def new_environment(folder: Path) -> Path:
    """The folder with the programs of a new virtual environment."""
    must_run(sys.executable, "-m", "venv", folder)
    return folder / "bin"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps")
    must_run(*pip, "--no-build-isolation", "--wheel-dir", folder, ROOT)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and all that it needs, which it shares with the tests."""
    folder = tmp_path_factory.mktemp("installed")
    programs = new_environment(folder)
    must_run(programs / "pip", "install", "--disable-pip-version-check", "--no-index", "--no-deps", wheel)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return programs
