"""Attention of single queries over the slot cache, see attention.c."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from worker.engine.native.library import NativeLibrary

WIDE, MAX_HEAD_DIM, MAX_QUERIES = 16, 256, 16
"""The same as in vectors.h and attention.h."""


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "kv_heads", "group", "head_dim")),
        *((name, ctypes.c_int64) for name in ("row_stride", "head_stride", "is_bfloat16")),
        ("scale", ctypes.c_float),
    )


class AttentionKernel:
    """See the module. For any thread. It computes without the GIL."""

    def __init__(self, library: NativeLibrary) -> None:
        self._library = library
        self.isa = library.isa

    @staticmethod
    def takes(dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int) -> bool:
        """Whether the kernel takes attention of this shape."""
        return (
            dtype in (torch.float32, torch.bfloat16)
            and head_dim % WIDE == 0
            and head_dim <= MAX_HEAD_DIM
            and heads <= MAX_QUERIES * kv_heads
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
        self._library.attend(
            ctypes.addressof(shape), *(tensor.data_ptr() for tensor in tensors), torch.get_num_threads()
        )
        return output
