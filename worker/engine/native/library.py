"""Compiles this folder's C and loads it."""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
SOURCES = ("attention.c", "decoder.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-c")
COMPILE_SECONDS = 60.0

logger = logging.getLogger(__name__)


@cache
def native_library() -> ctypes.CDLL | None:
    """The process' library; None, with a line in the log, where it cannot be had."""
    try:
        return _compiled()
    except (OSError, subprocess.SubprocessError) as error:
        stderr = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
        reason = (str(stderr).strip() or str(error)).splitlines()[0]
        logger.warning("this worker is slower than it could be, as its kernels were not compiled: %s", reason)
        return None


def _compiled() -> ctypes.CDLL:
    """Raises OSError and SubprocessError."""
    openmp = [*(Path(torch.__file__).parent / "lib").glob("libgomp*")]
    if not openmp:
        raise OSError("this torch was built without GNU OpenMP")
    # The kernels' threads are to be torch's: a second pool would fight with it for the cores.
    ctypes.CDLL(str(openmp[0]), mode=ctypes.RTLD_GLOBAL)
    compiler = shlex.split(os.environ.get("CC") or "cc")
    with tempfile.TemporaryDirectory(prefix="tokenrelay-") as folder:
        # In two steps: linked with -fopenmp it would bring the system's own OpenMP.
        objects = [str(Path(folder, source).with_suffix(".o")) for source in SOURCES]
        for source, target in zip(SOURCES, objects, strict=True):
            _run([*compiler, *FLAGS, str(FOLDER / source), "-o", target])
        library = str(Path(folder, "native.so"))
        _run([*compiler, "-shared", *objects, "-lm", "-o", library])
        return ctypes.CDLL(library)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS)
