"""Runs installed programs, and makes environments for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.serve_harness import FOREIGN_VARIABLES

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
    """Runs a program that must succeed, and returns what it printed."""
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def new_environment(folder: Path) -> Path:
    """Makes a virtual environment; returns the folder with its programs."""
    must_run(sys.executable, "-m", "venv", folder)
    return folder / "bin"
