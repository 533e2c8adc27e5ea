"""The instruction sets that the native code is compiled for, and which of them this machine has."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

AUTO, NONE = "auto", "none"
"""Values of NATIVE_ISA beside the names below: the best available, and no native code."""


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """One way to compile the native code.

    machine: as `platform.machine()` names the processor's family.
    flags: for the compiler.
    features: what /proc/cpuinfo must list; empty where every processor of the family has it.
    """

    name: str
    machine: str
    flags: tuple[str, ...]
    features: frozenset[str]


_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

INSTRUCTION_SETS = (
    InstructionSet(
        "avx512_bf16",
        "x86_64",
        ("-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni"),
        _AVX512 | {"avx512_bf16", "avx512_vnni"},
    ),
    InstructionSet("avx512", "x86_64", ("-march=x86-64-v4",), _AVX512),
    InstructionSet("avx2", "x86_64", ("-march=x86-64-v3",), _AVX2),
    InstructionSet("neon", "aarch64", ("-march=armv8-a",), frozenset()),
)
"""The best one of each family comes first."""

NAMES = (AUTO, *(isa.name for isa in INSTRUCTION_SETS), NONE)
"""The values of NATIVE_ISA. `Settings` lists them again, because it must not import this module."""


def family() -> list[InstructionSet]:
    """Returns those of this machine's family, also those that its processor lacks; the best first."""
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine())
    return [isa for isa in INSTRUCTION_SETS if isa.machine == machine]


def supported() -> list[InstructionSet]:
    """Returns the instruction sets that this machine's processor and system have; the best first."""
    features = _features()
    return [isa for isa in family() if isa.features <= features]


def _features() -> frozenset[str]:
    """Returns the features of the first processor; none where the system does not list them."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip() == "flags":
            return frozenset(values.split())
    return frozenset()
