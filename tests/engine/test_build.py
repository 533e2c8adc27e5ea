"""The native code is compiled once for all instruction sets of a processor family, and chosen at run time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness.waiting import eventually
from tasks.settings import Settings
from worker.engine.native import build as building
from worker.engine.native import isa as instruction_sets
from worker.engine.native import library as loading
from worker.engine.native.build import BuildError, build
from worker.engine.native.isa import NAMES, family, supported
from worker.engine.native.library import BUILD_COMMAND, native_library

ROOT = Path(__file__).parents[2]
STOP_SECONDS = 30


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder for libraries. It is empty, and compiling is quick in the test."""
    folder = tmp_path / "libraries"
    monkeypatch.setattr(building, "FLAGS", ("-O0", *building.FLAGS[1:]))
    monkeypatch.setattr(loading, "library_folders", lambda: [folder])
    native_library.cache_clear()
    yield folder
    native_library.cache_clear()


def test_every_instruction_set_is_compiled_once(folder: Path) -> None:
    libraries = build([folder])
    assert [path.name.rsplit("-", 2)[0] for path in libraries] == [isa.name for isa in family()]
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.so")}
    assert set(before) == set(libraries)
    assert build([folder]) == libraries
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.so")} == before
    for isa in supported():
        found = native_library(isa.name)
        assert found is not None
        assert found.isa == isa.name
    best = native_library()
    assert best is not None
    assert best.isa == supported()[0].name


def test_other_flags_make_another_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does another source or compiler. The old library is removed."""
    before = build([folder])
    monkeypatch.setattr(building, "FLAGS", (*building.FLAGS, "-g0"))
    after = build([folder])
    assert set(before).isdisjoint(after)
    assert set(folder.glob("*.so")) == set(after)


@pytest.mark.usefixtures("folder")
def test_a_folder_that_cannot_be_written_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    libraries = build([tmp_path / "file" / "libraries", tmp_path / "libraries"])
    assert {path.parent for path in libraries} == {tmp_path / "libraries"}
    with pytest.raises(BuildError, match="can be written"):
        build([tmp_path / "file" / "libraries"])


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("/no/such/compiler", "/no/such/compiler: No such file or directory"),
        ("false", "false failed: exit code 1"),
        ("cc --no-such-flag", "cc failed: "),
    ],
)
def test_without_a_compiler_the_build_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, reason: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(BuildError, match=reason):
        build([folder])
    assert list(folder.glob("*")) in ([], [folder / "build.lock"])


def test_a_library_needs_no_compiler_to_be_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build([folder])
    monkeypatch.setenv("CC", "false")
    monkeypatch.setenv("PATH", "")
    assert native_library() is not None


def test_a_worker_without_a_library_says_what_to_do(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not folder.exists()
    assert native_library() is None
    [record] = caplog.records
    assert record.getMessage() == (
        "this worker computes with torch alone, which is slower: its native code is not compiled for "
        f"{supported()[0].name} here; run `{BUILD_COMMAND}`"
    )


def test_a_library_that_others_can_write_is_not_loaded(folder: Path) -> None:
    for path in build([folder]):
        path.chmod(0o777)
    assert native_library() is None


def test_a_damaged_library_is_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in build([folder]):
        path.write_bytes(b"damaged")
    assert native_library() is None
    [record] = caplog.records
    assert "\n" not in record.getMessage()


def test_an_instruction_set_that_the_processor_lacks(caplog: pytest.LogCaptureFixture) -> None:
    missing = next(
        isa for isa in instruction_sets.INSTRUCTION_SETS if isa.name not in {one.name for one in supported()}
    )
    native_library.cache_clear()
    assert native_library(missing.name) is None
    assert f"this processor has no {missing.name}" in caplog.text
    assert native_library("none") is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("features", "best"),
    [
        ("avx2 fma f16c bmi1 bmi2 movbe", ["avx2"]),
        ("avx2 fma", []),
        ("avx2 fma f16c bmi1 bmi2 movbe avx512f avx512bw avx512cd avx512dq avx512vl", ["avx512", "avx2"]),
        ("sse4_2", []),
    ],
)
def test_the_instruction_sets_of_a_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: str, best: list[str]
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: some\nflags\t\t: fpu {features} sse\n")
    monkeypatch.setattr(instruction_sets, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert [isa.name for isa in supported()] == best
    monkeypatch.setattr(instruction_sets, "CPUINFO", tmp_path / "nothing")
    assert supported() == []


@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_arm_has_neon(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert [isa.name for isa in supported()] == ["neon"]


def test_the_setting_accepts_the_names() -> None:
    for name in NAMES:
        assert Settings(native_isa=name).native_isa == name


BUILD = (
    "import sys; sys.prefix = '/proc/none'; from worker.engine.native.build import main; "
    "sys.exit(main(*sys.argv[1:]))"
)
"""A build whose own prefix cannot be written, so that the environment's library does not change."""


@pytest.fixture
def endless(tmp_path: Path) -> dict[str, str]:
    """Variables with a compiler that never ends: a shell that waits for a child, as cc waits for cc1."""
    return with_compiler(tmp_path, f"sleep 600 & echo $! >> {tmp_path / 'started'}\nwait")


def with_compiler(folder: Path, script: str) -> dict[str, str]:
    """Returns variables whose compiler is a shell script, which is written to `folder`."""
    compiler = folder / "cc"
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\n{script}\n')
    compiler.chmod(0o755)
    return {**os.environ, "CC": str(compiler), "XDG_CACHE_HOME": str(folder)}


def stop(process: subprocess.Popen[bytes], number: int, folder: Path) -> None:
    """Stops a build that runs the endless compiler, and waits until all of its processes have ended."""
    started = folder / "started"
    eventually(lambda: started.exists() and started.read_text().endswith("\n"))
    process.send_signal(number)
    process.wait(timeout=STOP_SECONDS)
    children = [int(line) for line in started.read_text().split()]
    eventually(lambda: not any(is_running(child) for child in children), timeout=STOP_SECONDS)


def test_a_build_that_is_stopped_leaves_no_compiler_behind(tmp_path: Path, endless: dict[str, str]) -> None:
    process = subprocess.Popen([sys.executable, "-c", BUILD], env=endless)
    stop(process, signal.SIGTERM, tmp_path)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_make_that_is_stopped_leaves_no_compiler_behind(
    tmp_path: Path, endless: dict[str, str], number: int
) -> None:
    for stamp in (".installed-light", ".installed"):
        (tmp_path / stamp).touch()
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{BUILD}" "$3"\n')
    python.chmod(0o755)
    process = subprocess.Popen(["make", f"VENV={tmp_path}", f"{tmp_path}/.native"], cwd=ROOT, env=endless)
    stop(process, number, tmp_path)


def test_what_a_killed_build_left_is_removed(folder: Path) -> None:
    left = folder / "build-1"
    left.mkdir(parents=True)
    (left / "attention.o").touch()
    build([folder])
    assert not left.exists()


@pytest.mark.parametrize(
    ("script", "is_compiled"), [('for last; do :; done; touch "$last"', True), ("exit 1", False)]
)
def test_make_continues_when_nothing_can_be_compiled(tmp_path: Path, script: str, is_compiled: bool) -> None:
    """The stamp says that everything was compiled, so that make need not try again."""
    stamp = tmp_path / "stamp"
    command = [sys.executable, "-c", BUILD, str(stamp)]
    done = subprocess.run(command, env=with_compiler(tmp_path, script), timeout=STOP_SECONDS, check=False)
    assert (done.returncode, stamp.exists()) == (0, is_compiled)


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
