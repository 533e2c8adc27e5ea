"""Loads the compiled native code, see `build`."""

from __future__ import annotations

import ctypes
import logging
import os
import stat
from functools import cache
from pathlib import Path
from typing import Any

import torch

from worker.engine.native.build import library_folders, library_stem
from worker.engine.native.isa import AUTO, NONE, InstructionSet, supported

BUILD_COMMAND = f"python -m {__package__}.build"

logger = logging.getLogger(__name__)

_int64, _address = ctypes.c_int64, ctypes.c_void_p
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "attend": (None, [*[_address] * 6, _int64]),
    "decode": (None, [_address] * 3),
    "scratch_bytes": (_int64, [_address, *[_int64] * 3]),
    "panel_outputs": (_int64, []),
    "shortlist_neighbours": (_int64, []),
    "draw": (None, [_address, _int64, _int64, _address, _int64, _address, _address]),
    "draw_scratch_bytes": (_int64, [_int64, _int64]),
}
"""The types of each function's result and arguments."""


class NativeLibrary:
    """The functions of one library, as attributes. They run without the GIL."""

    def __init__(self, isa: str, path: Path) -> None:
        """Raises OSError where the library cannot be loaded."""
        self.isa = isa
        _load_openmp()
        functions = ctypes.CDLL(str(path))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments
        self._functions = functions
        self.panel_outputs: int = functions.panel_outputs()
        """How many outputs a panel of weights has."""
        self.shortlist_neighbours: int = functions.shortlist_neighbours()
        """How many inputs are side by side in the rounded weights for shortlists, see rounded_product.h; 0 if
        the library has no shortlists."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functions, name)


@cache
def native_library(wanted: str = AUTO) -> NativeLibrary | None:
    """Returns the library for the best instruction set, or for the wanted one (NATIVE_ISA).

    None, with a line in the log, where it is not available. A worker never compiles.
    """
    if wanted == NONE:
        return None
    choices = [isa for isa in supported() if wanted in (AUTO, isa.name)]
    if not choices:
        _warn(
            "there is no native code for this processor"
            if wanted == AUTO
            else f"this processor has no {wanted}"
        )
        return None
    path = _find(choices[0])
    if path is None:
        _warn(f"its native code is not compiled for {choices[0].name} here; run `{BUILD_COMMAND}`")
        return None
    try:
        return NativeLibrary(choices[0].name, path)
    except OSError as error:
        _warn(str(error))
        return None


def _warn(reason: str) -> None:
    logger.warning("this worker computes with torch alone, which is slower: %s", reason)


def _find(isa: InstructionSet) -> Path | None:
    """Returns the newest up-to-date library that no other user could have put there."""
    for folder in library_folders():
        found = [path for path in folder.glob(f"{library_stem(isa)}-*.so") if _is_trusted(path)]
        if found:
            return max(found, key=lambda path: path.stat().st_mtime)
    return None


def _is_trusted(path: Path) -> bool:
    """Whether only this user or root can have written a file."""
    status, folder = path.stat(), path.parent.stat()
    others_may_write = (status.st_mode | folder.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    return not others_may_write and {status.st_uid, folder.st_uid} <= {0, os.getuid()}


@cache
def _load_openmp() -> None:
    """Makes the library use torch's threads: a second pool would compete with them for the cores."""
    openmp = [*(Path(torch.__file__).parent / "lib").glob("libgomp*")]
    if not openmp:
        raise OSError("this torch was built without GNU OpenMP")
    ctypes.CDLL(str(openmp[0]), mode=ctypes.RTLD_GLOBAL)
