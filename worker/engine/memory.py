"""Memory of many megabytes that is read from end to end, step after step."""

from __future__ import annotations

import mmap
from contextlib import suppress
from math import prod

import torch
from torch import Tensor

LARGE_PAGE = 2 * 2**20


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
