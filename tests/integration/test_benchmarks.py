"""The benchmarks run: each prints its table for the smallest load. The figures do not matter here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.workers import ROOT


@pytest.mark.parametrize(
    ("command", "row"),
    [
        ("backlog --backlogs 10 --repeats 1 --takeovers 1", "takeover, ms"),
        ("cost --streams 2 --seconds 1 --readers 1", "2 "),
        ("jobs --jobs 20 --repeats 1", "jobs / tasks"),
        ("preemption --slots 2 --repeats 2 --engine echo", "| 2 slots, 4 low jobs"),
        ("relay --streams 2 --rate 20 --seconds 1", "events/s"),
        ("simulation --streams 2 --seconds 1", "tokens/s"),
    ],
)
def test_a_benchmark_prints_its_table(command: str, row: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *f"bench.{command}".split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(line.startswith(row) for line in done.stdout.splitlines()), done.stdout
