"""Memory of many megabytes that is read from end to end, step after step; and what happens where it ends."""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod

import torch
from torch import Tensor

from tasks.errors import first_line

LARGE_PAGE = 2 * 2**20

SIGNS = ("DefaultCPUAllocator", "CUDA error: out of memory", "ALLOC_FAILED")
"""One of these is in the text where torch has no class of its own for it: on CPUs, in CUDA and cuBLAS."""


def large_zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """Zeros on the CPU, in large pages where the system has them: looking up small ones takes time."""
    count = prod(shape) * dtype.itemsize
    if count < LARGE_PAGE:
        return torch.zeros(shape, dtype=dtype)
    room = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # Advice, which some kernels do not take.
            room.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(room, dtype=dtype).view(shape)


def forget_part(whole: Tensor, part: Tensor) -> None:
    """Let the system have the pages of a contiguous part of `large_zeros`. What the part held is lost.

    Pages that it shares with other parts stay: the system would forget them as a whole.
    """
    if not hasattr(mmap, "MADV_DONTNEED") or whole.nbytes < LARGE_PAGE:
        return
    start = -(-part.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (part.data_ptr() + part.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    count = end - start
    if count > 0:
        # Advice: where the system does not take it, the memory is free with the whole tensor.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(count), mmap.MADV_DONTNEED)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns what torch and mmap raise where memory does not suffice into a MemoryError with one line."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not _ran_out(error):
            raise
        raise MemoryError(first_line(error)) from error


def _ran_out(error: RuntimeError | OSError) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS)
