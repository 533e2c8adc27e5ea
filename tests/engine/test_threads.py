"""How many threads the engine uses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from tests.control_groups import put_into_groups
from tests.engine.tiny import engine_request, generate, save_model, settings_for
from worker.engine.forward import Answer, Chunk
from worker.engine.loading.model import _keep_to_usable_cores
from worker.engine.native.native_forward import NativeForward
from worker.engine.threads import FIRST_PROBE, LAST_PROBE, PROBE_STEPS, FittingThreads, thread_counts
from worker.engine.transformers.engine import TransformersEngine


@pytest.fixture
def _eight_threads() -> Iterator[None]:
    """Sets the number that torch would use: OMP_NUM_THREADS, or the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_eight_threads")
@pytest.mark.parametrize(("quota", "threads"), [("max", 8), ("400000", 4), ("100000", 1)])
def test_threads_keep_to_the_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, threads: int
) -> None:
    put_into_groups(monkeypatch, tmp_path, "0::/\n", **{"cpu.max": f"{quota} 100000\n"})
    _keep_to_usable_cores()
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [2, 1]), (4, [4, 3, 1]), (8, [8, 7, 3, 1]), (16, [16, 15, 7, 3, 1])]
)
def test_the_numbers_worth_trying(most: int, counts: list[int]) -> None:
    assert thread_counts(most) == counts


class Machine:
    """A forward on a machine of known speed: `seconds` gives a pass's time for threads and tokens."""

    pads, draws, progress = False, True, 0

    def __init__(self, cores: int, seconds: Callable[[int, int], float]) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.threads = 0
        self.used: list[int] = []
        self.forward = FittingThreads(self, cores, self.set_threads, lambda: self.now)

    def set_threads(self, count: int) -> None:
        self.threads = count

    def run(self, chunks: Sequence[Chunk]) -> Answer:
        self.now += self.seconds(self.threads, len(chunks))
        self.used.append(self.threads)
        return Answer([0] * len(chunks), torch.empty(0, 1))

    def fits(self, lengths: Sequence[int]) -> bool:  # noqa: ARG002
        return True

    def make_room(self, lengths: Sequence[int]) -> None: ...

    def release(self, rows: int) -> None: ...

    def move(self, source: int, target: int, tokens: int) -> None: ...

    def clear(self, row: int) -> None: ...

    def steps(self, count: int, tokens: int = 1) -> list[int]:
        """Runs passes, and returns the number of threads of each."""
        self.used = []
        for _ in range(count):
            self.forward.run([Chunk(row, 5, [7]) for row in range(tokens)])
        return self.used


def quiet(threads: int, _tokens: int) -> float:
    return 1 / threads


def busy(threads: int, _tokens: int) -> float:
    """The time of a pass when all cores except for one are free."""
    return 1 / threads if threads < 4 else 3.0


def crowded(threads: int, _tokens: int) -> float:
    """The time of a pass when several threads wait for each other."""
    return float(threads)


@pytest.mark.parametrize(("seconds", "best"), [(quiet, 4), (busy, 3), (crowded, 1)])
def test_the_fastest_number_is_found_and_stays(seconds: Callable[[int, int], float], best: int) -> None:
    machine = Machine(4, seconds)
    machine.steps(10 * FIRST_PROBE)
    used = machine.steps(10 * LAST_PROBE)
    assert used.count(best) >= len(used) * (1 - 2 * PROBE_STEPS / LAST_PROBE) - 2 * PROBE_STEPS


def test_a_neighbour_that_comes_and_goes_is_noticed() -> None:
    machine = Machine(4, quiet)
    machine.steps(5 * LAST_PROBE)
    for seconds, best in [(crowded, 1), (quiet, 4), (busy, 3), (quiet, 4)]:
        machine.seconds = seconds
        machine.steps(LAST_PROBE + 6 * FIRST_PROBE)
        used = machine.steps(100)
        assert used.count(best) >= 100 - 4 * PROBE_STEPS, (seconds, used)


def test_noise_is_no_reason_to_change() -> None:
    """Noise is one slow step among many, and differences of a few per cent."""
    machine = Machine(2, lambda threads, _: 1.0 if threads == 2 else 0.98)
    assert machine.steps(100).count(2) >= 100 - 4 * PROBE_STEPS
    hiccups = iter([*[1.0] * (FIRST_PROBE - 1), 50.0] * 100)
    machine = Machine(2, lambda threads, _: next(hiccups) if threads == 2 else 1.5)
    assert machine.steps(400).count(2) >= 400 - 10 * PROBE_STEPS


def test_steps_of_another_size_have_a_number_of_their_own() -> None:
    machine = Machine(4, lambda threads, tokens: 1 / threads if tokens > 8 else float(threads))
    for _ in range(20):
        machine.steps(FIRST_PROBE, tokens=1)
        machine.steps(FIRST_PROBE, tokens=32)
    assert machine.steps(FIRST_PROBE, tokens=1).count(1) >= FIRST_PROBE - PROBE_STEPS
    assert machine.steps(FIRST_PROBE, tokens=32).count(4) >= FIRST_PROBE - PROBE_STEPS


def test_a_text_does_not_depend_on_the_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number changes many times within a text."""
    folder = save_model(tmp_path, "llama", hidden_size=128, num_attention_heads=8, num_key_value_heads=4)
    request = engine_request("one", (5, 6, 7), max_tokens=60, temperature=1.0, seed=3)
    alone = TransformersEngine(settings_for(folder))
    assert isinstance(alone._forward, NativeForward)
    expected = generate(alone, request)
    before = torch.get_num_threads()
    used: set[int] = set()

    def set_threads(count: int) -> None:
        used.add(count)
        torch.set_num_threads(count)

    # This clock runs backwards, so that each probe finds a faster number.
    ticks = iter(range(10**6, 0, -1))
    monkeypatch.setattr("worker.engine.threads.FIRST_PROBE", 2)
    engine = TransformersEngine(settings_for(folder))
    engine._runner._forward = FittingThreads(engine._forward, 4, set_threads, lambda: float(next(ticks)) ** 2)
    try:
        assert generate(engine, request) == expected
    finally:
        torch.set_num_threads(before)
    assert len(used) > 1


@pytest.mark.parametrize(
    ("variables", "spins"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_waiting_threads_sleep(tmp_path: Path, variables: dict[str, str], spins: str) -> None:
    """A variable of the user takes precedence. Ours must be set before torch's OpenMP reads it."""
    save_model(tmp_path)
    code = (
        "import os, sys, worker.engine as engine; from tasks.settings import Settings\n"
        "assert 'torch' not in sys.modules\n"
        f"engine.load_engine(Settings(model_id={str(tmp_path)!r}, device='cpu'))\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    others = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    process = subprocess.run(
        [sys.executable, "-c", code], env=others | variables, capture_output=True, text=True, timeout=120
    )
    assert process.stdout == f"{spins}\n", process.stderr
