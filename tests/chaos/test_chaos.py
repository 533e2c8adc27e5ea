"""A minute of random failures. `make chaos SECONDS=1800` runs longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.run import run

SECONDS = 45.0


@pytest.mark.timeout(300)
def test_nothing_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    verdict, acts = run(tmp_path, SECONDS, seed)
    print(f"seed {seed}: {dict(acts)}\n{verdict}")
    assert verdict.faults == [], f"seed {seed}: {dict(acts)}\n{verdict}"
    assert verdict.accepted == verdict.completed + verdict.cancelled + verdict.failed
    assert verdict.continued > 0, "no failure interrupted a job"
    assert verdict.preempted > 0, "no job gave its slots to another one"
