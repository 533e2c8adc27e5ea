"""Compiles this folder's C ahead of the first start: `python -m worker.engine.native.build`.

A library is compiled for each instruction set of this machine's processor family, also for those that this
processor lacks: an image or an environment that was made on one machine runs on another, which chooses at run
time. Libraries are kept in the environment (`sys.prefix`) or, where that cannot be written, in the user's
cache folder. Their names hold a hash of the sources, the flags and the compiler, so that nothing is compiled
twice and a stale library is never loaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from tasks.parent import end_with_make
from worker.engine.native.isa import InstructionSet, family

FOLDER = Path(__file__).parent
SOURCES = ("attention.c", "decoder.c", "sampling.c")
FLAGS = ("-O3", "-fopenmp", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-c")
"""-ffp-contract=off: the code itself says where a multiplication and an addition are one instruction."""

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}

BUILD_SECONDS = 100.0
"""All of it takes about five seconds. A compiler that takes longer than this hangs."""


class BuildError(Exception):
    """The native code cannot be compiled here."""


def library_folders() -> list[Path]:
    """Returns the folders that may hold libraries: the environment's, then the user's."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return [Path(sys.prefix, "lib", "tokenrelay"), Path(cache, "tokenrelay")]


def library_stem(isa: InstructionSet) -> str:
    """Returns how the names of up-to-date libraries for `isa` begin. A hash of the compiler follows."""
    digest = hashlib.sha256(repr((FLAGS, isa.flags)).encode())
    for file in sorted([*FOLDER.glob("*.[ch]"), *FOLDER.glob("isa/*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{isa.name}-{digest.hexdigest()[:16]}"


def build(folders: list[Path] | None = None) -> list[Path]:
    """Compiles the libraries that are missing. Returns the paths of all of this family. Raises BuildError."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    identity = _identity(compiler)
    targets = {isa: f"{library_stem(isa)}-{identity}.so" for isa in family()}
    if not targets:
        raise BuildError("there is no native code for this kind of processor")
    with _locked_folder(folders or library_folders()) as folder:
        for scratch_of_a_killed_build in folder.glob("build-*/"):
            shutil.rmtree(scratch_of_a_killed_build)
        missing = [isa for isa, name in targets.items() if not (folder / name).exists()]
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
            objects = {
                isa: {source: str(Path(scratch, f"{isa.name}-{source}.o")) for source in SOURCES}
                for isa in missing
            }
            _run_all(
                [*compiler, *FLAGS, *isa.flags, str(FOLDER / source), "-o", target]
                for isa, files in objects.items()
                for source, target in files.items()
            )
            for isa, files in objects.items():
                # Linked without -fopenmp, which would bring a second OpenMP: its threads and torch's would
                # fight for the cores. `NativeLibrary` loads torch's first.
                library = Path(scratch, targets[isa])
                _run_all([[*compiler, "-shared", *files.values(), "-lm", "-o", str(library)]])
                library.rename(folder / library.name)
        _remove_stale(folder, set(targets.values()))
        return [folder / name for name in targets.values()]


def _identity(compiler: list[str]) -> str:
    """Returns a hash of the compiler's version."""
    [version] = _run_all([[*compiler, "--version"]])
    return hashlib.sha256(f"{shlex.join(compiler)}\0{version}".encode()).hexdigest()[:8]


def _run_all(commands: Iterable[list[str]]) -> list[str]:
    """Runs commands at the same time. Returns what they print. Raises BuildError.

    Compilers start children of their own, so each gets a process group, which is ended whatever happens here.
    """
    running: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            # A signal between a start and its entry in the list would leave the compiler running.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                running.append(_start(command))
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        deadline = time.monotonic() + BUILD_SECONDS
        return [_output(process, deadline - time.monotonic()) for process in running]
    finally:
        for process in running:
            with process:  # Closes its pipes and waits for it.
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def _start(command: list[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}") from None


def _output(process: subprocess.Popen[str], seconds: float) -> str:
    compiler = shlex.join(process.args[:1]) if isinstance(process.args, list) else "the compiler"
    try:
        output, errors = process.communicate(timeout=max(seconds, 0))
    except subprocess.TimeoutExpired:
        raise BuildError(f"{compiler} took longer than {BUILD_SECONDS:.0f} s") from None
    if process.returncode:
        reason = (errors.strip() or f"exit code {process.returncode}").splitlines()[0]
        raise BuildError(f"{compiler} failed: {reason}")
    return output


@contextmanager
def _locked_folder(folders: list[Path]) -> Iterator[Path]:
    """Returns the first folder that can be written, locked against other builds. Raises BuildError."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            lock = (folder / "build.lock").open("w")
        except OSError:
            continue  # The next one may do.
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
        return
    raise BuildError(f"none of {', '.join(map(str, folders))} can be written")


def _remove_stale(folder: Path, current: set[str]) -> None:
    for library in folder.glob("*.so"):
        if library.name not in current:
            library.unlink()


def _stop(number: int, _frame: object) -> NoReturn:
    """Exits by an exception, so that no compiler is left running."""
    sys.exit(128 + number)


def main(stamp: str | None = None) -> int:
    """Returns the exit code.

    stamp: a file to touch when all is compiled, for make. With it, the code is 0 also where nothing can be
        compiled, because workers can do without.
    """
    signal.signal(signal.SIGTERM, _stop)
    end_with_make()
    try:
        build()
        if stamp is not None:
            Path(stamp).touch()
    except BuildError as error:
        print(
            f"the native decoder was not compiled, so that workers on CPUs will be slower: {error}",
            file=sys.stderr,
        )
        return 1 if stamp is None else 0
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
