"""The attention kernel, compared with the formula in float64."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from worker.engine.native.attention_kernel import AttentionKernel
from worker.engine.native.library import NativeLibrary

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.fixture
def kernel(library: NativeLibrary) -> AttentionKernel:
    return AttentionKernel(library)


def expected(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scaling: float) -> Tensor:
    """Returns attention by its formula, [rows, heads, 1, head_dim] in float64."""
    group = query.shape[1] // key.shape[1]
    outputs = []
    for row, length in enumerate(lengths):
        keys = key[row, :, :length].double().repeat_interleave(group, dim=0)
        values = value[row, :, :length].double().repeat_interleave(group, dim=0)
        weights = (query[row].double() @ keys.transpose(1, 2) * scaling).softmax(dim=-1)
        outputs.append(weights @ values)
    return torch.stack(outputs)


def random_case(dice: random.Random, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, list[int], float]:
    """Returns inputs of any shape that it accepts, as views of a larger cache."""
    torch.manual_seed(dice.randrange(2**31))
    rows, kv_heads, group = dice.randint(1, 5), dice.randint(1, 4), dice.choice([1, 2, 3, 7, 16])
    head_dim = dice.choice([16, 32, 48, 64, 80, 96, 128, 256])
    room = dice.choice([1, 31, 32, 33, 64, 200])
    lengths = [dice.randint(1, room) for _ in range(rows)]
    cache = torch.randn(2, rows + 2, kv_heads, room + 3, head_dim).to(dtype)
    key, value = (states[1 : rows + 1, :, :room] for states in cache)
    query = (3 * torch.randn(rows, 1, kv_heads * group, head_dim)).to(dtype).transpose(1, 2)
    return query, key, value, lengths, dice.choice([1.0, head_dim**-0.5])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_it_is_attention(kernel: AttentionKernel, dtype: torch.dtype) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(200):
        query, key, value, lengths, scaling = random_case(dice, dtype)
        output = kernel(query, key, value, torch.tensor(lengths, dtype=torch.int32), scaling)
        reference = expected(query, key, value, lengths, scaling)
        assert output.dtype == dtype
        error = (output.double() - reference).abs().max().item()
        assert error <= TOLERANCE[dtype] * reference.abs().max().clamp(min=1).item(), (query.shape, lengths)


def test_positions_that_a_row_does_not_read_do_not_matter(kernel: AttentionKernel) -> None:
    key, value = torch.randn(2, 2, 3, 40, 64)
    key[:, :, 20:], value[:, :, 20:] = torch.nan, torch.nan
    lengths = torch.tensor([20, 7], dtype=torch.int32)
    assert kernel(torch.randn(2, 3, 1, 64), key, value, lengths, 0.1).isfinite().all()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("spoilt", ["query", "key", "value"])
def test_nan_is_not_hidden(kernel: AttentionKernel, dtype: torch.dtype, spoilt: str) -> None:
    """It ends its own sequence as spoilt (see `sample`) and does not change others."""
    tensors = {
        "query": torch.randn(2, 3, 1, 64).to(dtype),
        "key": torch.randn(2, 3, 40, 64).to(dtype),
        "value": torch.randn(2, 3, 40, 64).to(dtype),
    }
    tensors[spoilt][1, :, 0] = torch.nan
    output = kernel(**tensors, lengths=torch.tensor([40, 40], dtype=torch.int32), scaling=0.1)
    assert output[0].isfinite().all()
    assert output[1].isnan().all()


def test_scores_may_be_large(kernel: AttentionKernel) -> None:
    query, key = torch.full((1, 1, 1, 16), 100.0), torch.full((1, 1, 50, 16), 100.0)
    key[0, 0, 40] = 101.0
    value = torch.arange(50.0)[None, None, :, None].expand(1, 1, 50, 16).contiguous()
    output = kernel(query, key, value, torch.tensor([50], dtype=torch.int32), 1.0)
    assert output.flatten().tolist() == [40.0] * 16


def test_the_number_of_threads_changes_nothing(kernel: AttentionKernel) -> None:
    query, key, value, lengths, scaling = random_case(random.Random(3), torch.bfloat16)
    counts = torch.tensor(lengths, dtype=torch.int32)
    alone = kernel(query, key, value, counts, scaling)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert torch.equal(kernel(query, key, value, counts, scaling), alone)
    finally:
        torch.set_num_threads(before)


def test_a_cache_with_another_layout_is_refused(kernel: AttentionKernel) -> None:
    key = torch.randn(1, 2, 64, 20).transpose(2, 3)
    with pytest.raises(ValueError, match="lie in the cache as the kernel does not read them"):
        kernel(torch.randn(1, 2, 1, 64), key, key, torch.tensor([20], dtype=torch.int32), 1.0)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "dtype", "taken"),
    [
        (12, 12, 64, torch.bfloat16, True),
        (32, 2, 128, torch.float32, True),
        (34, 2, 128, torch.float32, False),
        (4, 4, 8, torch.float32, False),
        (4, 4, 512, torch.float32, False),
        (4, 4, 64, torch.float16, False),
    ],
)
def test_it_says_which_shapes_it_accepts(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, taken: bool
) -> None:
    assert AttentionKernel.takes(dtype, heads, kv_heads, head_dim) == taken
