"""The interface of the measured engines."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCH_VENV = ROOT / ".venv-bench"
VLLM_VENV = ROOT / ".venv-vllm"

PROMPT_TOKENS, NEW_TOKENS = 32, 64
STREAMS = [1, 8, 32, 64]
PRECISIONS = ["float32", "bfloat16", "int8"]

Generate = Callable[[list[list[int]], float], list[list[int]]]
"""Prompts and a temperature (0 is greedy) -> NEW_TOKENS new tokens for each prompt."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine to measure.

    name: its column's heading in the tables.
    load: folder and precision -> Generate. It imports the engine, so only the engine's own process calls it.
    precisions: the ones that it supports on a CPU.
    model_types: the ones that it is measured with, as config.json names them.
    convert: writes the folder of a model in transformers' format to a new folder in the engine's format, in a
        process of the engine's environment; None where the engine reads transformers' format.
    python: the interpreter of the engine's environment.
    set_up: the command that makes this environment.
    environment: variables of the engine's process.
    """

    name: str
    load: Callable[[Path, str], Generate]
    precisions: tuple[str, ...]
    model_types: tuple[str, ...] = ("opt", "llama")
    convert: Callable[[Path, Path], None] | None = None
    python: Path = Path(sys.executable)
    set_up: str = "make setup"
    environment: Mapping[str, str] = field(default_factory=dict)


def prompts(count: int) -> list[list[int]]:
    """Returns `count` different prompts of PROMPT_TOKENS ids. Each call returns the same ones."""
    dice = random.Random(count)
    return [[dice.randrange(10, 2000) for _ in range(PROMPT_TOKENS)] for _ in range(count)]
