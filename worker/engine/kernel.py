"""Compiles `kernel.c`, attention for steps of single queries on a CPU, and calls it.

It takes a C compiler (`CC`, by default `cc`) and a torch with GNU OpenMP, as on Linux. Where one is missing,
attention goes by torch's own products, slower.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernel.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-c")
COMPILE_SECONDS = 60.0

LANES, MAX_HEAD_DIM, MAX_GROUP = 16, 256, 16
"""As in kernel.c."""

logger = logging.getLogger(__name__)


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "kv_heads", "group", "head_dim")),
        *((name, ctypes.c_int64) for name in ("row_stride", "head_stride", "is_bfloat16")),
        ("scale", ctypes.c_float),
    )


class AttentionKernel:
    """See the module. For any thread; it computes without Python's lock."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._attend: Any = library.attend
        self._attend.argtypes = [ctypes.c_void_p] * 6
        self._attend.restype = None

    @staticmethod
    def takes(dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int) -> bool:
        """Whether it has attention of this shape."""
        return (
            dtype in (torch.float32, torch.bfloat16)
            and head_dim % LANES == 0
            and head_dim <= MAX_HEAD_DIM
            and heads <= MAX_GROUP * kv_heads
        )

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, scaling: float) -> Tensor:
        """Returns [rows, heads, 1, head_dim].

        query: [rows, heads, 1, head_dim]. key, value: [rows, kv_heads, tokens, head_dim], views of a cache
        that has a head's tokens side by side. lengths: int32 [rows], how many of the tokens each row reads.
        """
        rows, heads, _, head_dim = query.shape
        row_stride, head_stride, *token_strides = key.stride()
        if value.stride() != key.stride() or token_strides != [head_dim, 1] or value.dtype != key.dtype:
            raise ValueError("keys and values lie in the cache as the kernel does not read them")
        query = query.contiguous()
        output = torch.empty_like(query)
        kv_heads = key.shape[1]
        is_bfloat16 = query.dtype == torch.bfloat16
        shape = _Shape(
            rows, kv_heads, heads // kv_heads, head_dim, row_stride, head_stride, is_bfloat16, scaling
        )
        tensors = (query, key, value, lengths, output)
        self._attend(ctypes.addressof(shape), *(tensor.data_ptr() for tensor in tensors))
        return output


@cache
def attention_kernel() -> AttentionKernel | None:
    """The process' kernel; None, with a line in the log, where it cannot be had."""
    try:
        return AttentionKernel(_compiled())
    except (OSError, subprocess.SubprocessError) as error:
        stderr = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
        reason = (str(stderr).strip() or str(error)).splitlines()[0]
        logger.warning("attention is slower than it could be, as its kernel was not compiled: %s", reason)
        return None


def _compiled() -> ctypes.CDLL:
    """Raises OSError and SubprocessError."""
    openmp = [*(Path(torch.__file__).parent / "lib").glob("libgomp*")]
    if not openmp:
        raise OSError("this torch was built without GNU OpenMP")
    # The kernel's threads are to be torch's: a second pool would fight with it for the cores.
    ctypes.CDLL(str(openmp[0]), mode=ctypes.RTLD_GLOBAL)
    compiler = shlex.split(os.environ.get("CC") or "cc")
    with tempfile.TemporaryDirectory(prefix="tokenrelay-") as folder:
        objects, library = Path(folder, "kernel.o"), Path(folder, "kernel.so")
        # In two steps: linked with -fopenmp it would bring the system's own OpenMP.
        _run([*compiler, *FLAGS, str(SOURCE), "-o", str(objects)])
        _run([*compiler, "-shared", str(objects), "-lm", "-o", str(library)])
        return ctypes.CDLL(str(library))


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS)
