"""Measures tokens/s of engines alone, without the queue: ours, and others that run on a CPU.

    make bench-setup                                     once: the environment of CTranslate2 and llama.cpp
    .venv/bin/python -m bench.engine                     on an otherwise idle machine
    .venv/bin/python -m bench.engine --only ours generate --model opt-125m --streams 1 64

Prompts have 32 tokens, outputs 64, and all streams run at once. The time includes the prompts. Each engine
has a process of its own and all cores. A run of each size warms it up. Then the engines take turns for some
rounds, and the tables show medians, in Markdown. Engines are compared within a precision. In float32, each
engine must first give the greedy tokens of transformers' `generate`; in other precisions the agreement is
printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.engines import ENGINES
from bench.engines.base import NEW_TOKENS, PRECISIONS, STREAMS, Engine
from bench.engines.process import EngineProcess, busy_neighbour, converted
from bench.models import MODELS
from worker.cores import usable_cores
from worker.engine.native.isa import AUTO, supported

ISA_ENVIRONMENT: dict[str, dict[str, str]] = {
    "auto": {},
    "avx2": {
        "NATIVE_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "CT2_FORCE_CPU_ISA": "AVX2",
    },
}
"""Environment variables that limit engines to an instruction set, as far as they allow it."""

CHECKED_STREAMS = 4
CHECKED_TOKENS = 16
"""How many tokens of each stream are checked in float32. Later ones may differ, because rounding decides near
ties."""


@dataclass(frozen=True, slots=True)
class Size:
    """A row of a table."""

    streams: int
    temperature: float


@dataclass(frozen=True, slots=True)
class Contender:
    """key: the engine's in ENGINES."""

    key: str
    precision: str

    @property
    def engine(self) -> Engine:
        return ENGINES[self.key]


class Stage:
    """Measures one model: the contenders of one precision run it in turns.

    It is a context manager, because it holds converted copies of the model.
    """

    def __init__(self, model: str, environment: Mapping[str, str], is_disturbed: bool) -> None:
        self._environment, self._is_disturbed = environment, is_disturbed
        self._files = tempfile.TemporaryDirectory(prefix="bench-model-")
        self._below = Path(self._files.name)
        self.folder = MODELS[model](self._below / "transformers")
        self.model_type: str = json.loads((self.folder / "config.json").read_text())["model_type"]

    def __enter__(self) -> Stage:
        with self._process(Contender("generate", "float32")) as process:
            self._expected = process.run(CHECKED_STREAMS, 0).tokens
        return self

    def __exit__(self, *_: object) -> None:
        self._files.cleanup()

    def measure(
        self, contenders: Sequence[Contender], sizes: Sequence[Size], rounds: int
    ) -> dict[tuple[str, Size], float]:
        """Returns the median tokens/s of each engine's key and size."""
        rates: dict[tuple[str, Size], list[float]] = {}
        with ExitStack() as stack:
            processes = {one: stack.enter_context(self._process(one)) for one in contenders}
            for contender, process in processes.items():
                self._check(contender, process)
                for size in sizes:
                    process.run(size.streams, size.temperature)
            with busy_neighbour() if self._is_disturbed else nullcontext():
                for _ in range(rounds):
                    for size in sizes:
                        for contender, process in processes.items():
                            result = process.run(size.streams, size.temperature)
                            rates.setdefault((contender.key, size), []).append(result.tokens_per_second)
        return {key: statistics.median(values) for key, values in rates.items()}

    @contextmanager
    def _process(self, contender: Contender) -> Iterator[EngineProcess]:
        folder = converted(contender.key, contender.engine, self.folder, self._below)
        process = EngineProcess(
            contender.key, contender.engine, folder, contender.precision, self._environment
        )
        try:
            yield process
        finally:
            process.stop()

    def _check(self, contender: Contender, process: EngineProcess) -> None:
        """Prints how many greedy tokens are `generate`'s in float32; raises where another model ran."""
        tokens = process.run(CHECKED_STREAMS, 0).tokens
        equal = [equal_tokens(*pair) for pair in zip(tokens, self._expected, strict=True)]
        name = f"{contender.engine.name}, {contender.precision}"
        if contender.precision == "float32" and min(equal) < CHECKED_TOKENS:
            raise RuntimeError(f"{name}: greedy tokens differ from generate's after {equal} of {NEW_TOKENS}")
        print(f"  {name}: as generate in float32 for {equal} of {NEW_TOKENS} greedy tokens", flush=True)


def equal_tokens(tokens: Sequence[int], expected: Sequence[int]) -> int:
    """Returns how many tokens are equal before the first that is not."""
    for index, (one, other) in enumerate(zip(tokens, expected, strict=True)):
        if one != other:
            return index
    return len(tokens)


def table(keys: Sequence[str], sizes: Sequence[Size], medians: Mapping[tuple[str, Size], float]) -> str:
    """Returns Markdown: a row per size, a column per engine, and ours beside the best other engine."""
    others = [key for key in keys if key != "ours"]
    compares = "ours" in keys and bool(others)
    both = "ours" in keys and {0} < {size.temperature for size in sizes}
    head = ["streams", "temperature", *(ENGINES[key].name for key in keys)]
    head += ["ours / best other", "best other"] * compares + ["ours sampled / greedy"] * both
    rows = [head, ["---"] * len(head)]
    for size in sizes:
        row = [str(size.streams), f"{size.temperature:g}", *(f"{medians[key, size]:,.0f}" for key in keys)]
        if compares:
            best = max(others, key=lambda key: medians[key, size])
            row += [f"{medians['ours', size] / medians[best, size]:.2f}", ENGINES[best].name]
        if both:
            greedy = medians["ours", Size(size.streams, 0)]
            row.append(f"{medians['ours', size] / greedy:.2f}" if size.temperature else "")
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine(isa: str) -> str:
    """Returns a line about the processor and what engines use of it."""
    used = isa if isa != "auto" else os.environ.get("NATIVE_ISA", AUTO)
    if used == AUTO and supported():
        used = supported()[0].name
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {usable_cores()} of {os.cpu_count()} cores, NATIVE_ISA={used}"


def available(keys: Sequence[str]) -> list[str]:
    """Returns the engines that can be measured here, and prints a line about each other one."""
    found = []
    for key in keys:
        engine = ENGINES[key]
        if engine.python.exists():
            found.append(key)
        else:
            print(f"{engine.name} is left out: `{engine.set_up}` makes the environment that it needs")
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=list(ENGINES), default=list(ENGINES), help="these engines"
    )
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--streams", nargs="+", type=int, default=STREAMS)
    parser.add_argument("--temperature", nargs="+", type=float, default=[0, 1], help="0 is greedy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--isa", choices=list(ISA_ENVIRONMENT), default="auto", help="imitate such a machine")
    parser.add_argument("--neighbour", action="store_true", help="a process keeps one core busy meanwhile")
    options = parser.parse_args()
    if not 1 <= min(options.streams) <= max(options.streams) <= max(STREAMS):
        parser.error(f"--streams: 1 to {max(STREAMS)} are possible")
    if min(options.temperature) < 0 or options.rounds < 1:
        parser.error("--temperature must be at least 0, --rounds at least 1")
    return options


def main() -> None:
    options = arguments()
    # So that no engine's process is left, stopped, when this program is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    print(machine(options.isa) + ("; one core is kept busy" if options.neighbour else ""))
    keys = available(options.only)
    if options.isa != "auto" and "llama.cpp" in keys:
        print("llama.cpp is compiled for this machine and uses all of its instructions, whatever --isa says")
    sizes = [Size(count, temperature) for count in options.streams for temperature in options.temperature]
    for model in options.model:
        with Stage(model, ISA_ENVIRONMENT[options.isa], options.neighbour) as stage:
            for precision in options.precision:
                contenders = [
                    Contender(key, precision)
                    for key in keys
                    if precision in ENGINES[key].precisions and stage.model_type in ENGINES[key].model_types
                ]
                print(f"\n{model}, {precision}; tokens/s, medians of {options.rounds}", flush=True)
                medians = stage.measure(contenders, sizes, options.rounds)
                print(table([one.key for one in contenders], sizes, medians), flush=True)


if __name__ == "__main__":
    main()
