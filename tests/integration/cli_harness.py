"""The client's commands as processes."""

from __future__ import annotations

import os
import subprocess
import sys

from harness.waiting import TIMEOUT_SECONDS
from harness.workers import ROOT


def command(url: str, *arguments: str | bytes) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tokenrelay", *arguments],
        cwd=ROOT,
        env=os.environ | {"TOKENRELAY_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(url: str, *arguments: str | bytes) -> tuple[int, str, str]:
    """Runs a command. Returns its exit code and its output on stdout and stderr."""
    with command(url, *arguments) as process:
        printed, said = process.communicate(timeout=TIMEOUT_SECONDS)
    return process.returncode, printed, said


def first_line(process: subprocess.Popen[str]) -> str:
    """Returns the next line on stderr."""
    assert process.stderr is not None
    return process.stderr.readline()
