"""Draws tokens from logits on a CPU, in C, see sampling.c. `worker.engine.sampling` does it by torch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from worker.engine.native.library import NativeLibrary
from worker.engine.native.structures import NoiseStructure
from worker.engine.sampling import Row, adjusted


class _RowOptions(ctypes.Structure):
    _fields_ = (
        ("drawn", NoiseStructure),
        ("top_p", ctypes.c_float),
        ("min_p", ctypes.c_float),
        ("top_k", ctypes.c_int64),
    )


class NativeSampler:
    """The sampler in C. Not for several threads at once."""

    def __init__(self, library: NativeLibrary) -> None:
        self._library = library
        self._scratch = torch.empty(0, dtype=torch.uint8)

    def __call__(self, logits: Tensor, rows: Sequence[Row]) -> list[int]:
        """Returns one token id for each row of float32 logits [rows, vocab], or NO_TOKEN."""
        logits = adjusted(logits, rows).contiguous()
        count, vocab_size = logits.shape
        threads = torch.get_num_threads()
        needed = self._library.draw_scratch_bytes(vocab_size, threads)
        if self._scratch.nbytes < needed:
            self._scratch = torch.empty(needed, dtype=torch.uint8)
        options = (_RowOptions * count)(
            *(
                _RowOptions(NoiseStructure.of(row.draw), one.top_p, one.min_p, one.top_k)
                for row in rows
                for one in (row.sampling,)
            )
        )
        tokens = torch.empty(count, dtype=torch.long)
        self._library.draw(
            logits.data_ptr(),
            count,
            vocab_size,
            ctypes.addressof(options),
            threads,
            self._scratch.data_ptr(),
            tokens.data_ptr(),
        )
        return tokens.tolist()
