"""The native code computes the same bits with every instruction set, also on other processors."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from worker.engine.native.build import FLAGS, FOLDER, SOURCES
from worker.engine.native.isa import INSTRUCTION_SETS, InstructionSet, supported

PROGRAM = Path(__file__).parent / "portable" / "compute.c"
SECONDS = 100

EMULATED = {"neon": ("aarch64-linux-gnu-gcc", ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"))}
"""Instruction set of another processor -> its compiler and its emulator, both from Debian."""


def output_of(isa: InstructionSet, folder: Path, compiler: str, emulator: tuple[str, ...]) -> str:
    """Compiles the program for an instruction set with the library's flags. Returns what it prints."""
    program = str(folder / isa.name)
    sources = [str(PROGRAM), *(str(FOLDER / source) for source in SOURCES)]
    # The program does not use everything that the headers define.
    flags = [*(flag for flag in FLAGS if flag != "-c"), "-Wall", "-Werror", "-Wno-unused-function"]
    command = [compiler, *flags, *isa.flags, f"-I{FOLDER}", *sources, "-lm", "-o", program]
    compiled = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert compiled.returncode == 0, compiled.stderr
    return subprocess.run(
        [*emulator, program], capture_output=True, text=True, timeout=SECONDS, check=True
    ).stdout


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    return output_of(supported()[-1], tmp_path_factory.mktemp("expected"), "cc", ())


@pytest.mark.parametrize("isa", INSTRUCTION_SETS, ids=lambda isa: isa.name)
def test_every_instruction_set_computes_the_same(tmp_path: Path, isa: InstructionSet, expected: str) -> None:
    assert expected.count("\n") > 300
    if isa in supported():
        assert output_of(isa, tmp_path, "cc", ()) == expected
        return
    if isa.name not in EMULATED:
        pytest.skip(f"this processor has no {isa.name}")
    compiler, emulator = EMULATED[isa.name]
    missing = [command for command in (compiler, emulator[0]) if shutil.which(command) is None]
    if missing:
        reason = f"{', '.join(missing)} not installed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    assert output_of(isa, tmp_path, compiler, emulator) == expected
