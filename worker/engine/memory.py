"""Allocates many megabytes for what every step reads, and recognizes errors of too little memory."""

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
"""In the message of errors for which torch has no class of its own: on CPUs, in CUDA and cuBLAS."""


def large_zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """Returns zeros on the CPU, in large pages where the system has them, which saves page-table look-ups."""
    count = prod(shape) * dtype.itemsize
    if count < LARGE_PAGE:
        return torch.zeros(shape, dtype=dtype)
    room = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # Some kernels do not take this advice.
            room.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(room, dtype=dtype).view(shape)


def forget_part(whole: Tensor, part: Tensor) -> None:
    """Gives the pages of a contiguous part of `large_zeros` back to the system. Its content is lost.

    Pages that it shares with other parts stay, because they would be lost as a whole.
    """
    if not hasattr(mmap, "MADV_DONTNEED") or whole.nbytes < LARGE_PAGE:
        return
    start = -(-part.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (part.data_ptr() + part.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    count = end - start
    if count > 0:
        # Where the system does not take this advice, the memory is freed with the whole tensor.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(count), mmap.MADV_DONTNEED)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns what torch and mmap raise for lack of memory into a MemoryError with a message of one line."""
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
