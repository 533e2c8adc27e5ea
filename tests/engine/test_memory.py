"""Memory of the CPU engine: large pages, and rows that grow one by one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worker.engine.memory import LARGE_PAGE, forget_part, large_zeros, memory_errors
from worker.engine.native.rows import BLOCK_TOKENS, RowStates, is_uniform
from worker.engine.torch.slot_cache import SlotStates

KEYS = torch.zeros(1, 2, 1, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("count", [0, 5, 3 * LARGE_PAGE + 7])
def test_zeros_of_any_size_can_be_written(dtype: torch.dtype, count: int) -> None:
    tensor = large_zeros(3, count, dtype=dtype)
    assert tensor.shape == (3, count)
    assert tensor.dtype == dtype
    assert tensor.is_contiguous()
    assert not tensor.any()
    tensor.fill_(1)
    assert tensor[1:].sum(dtype=torch.float64).item() == 2 * count


@pytest.mark.parametrize("count", [LARGE_PAGE + 2048, LARGE_PAGE + 1])
def test_the_rest_keeps_its_values_when_a_part_is_freed(count: int) -> None:
    """Parts share a page, and the system frees only whole pages."""
    whole = large_zeros(3, count, dtype=torch.uint8).fill_(7)
    forget_part(whole, whole[1])
    assert (whole[0] == 7).all()
    assert (whole[2] == 7).all()


@pytest.mark.parametrize(
    ("allocate", "reason"),
    [
        (lambda: torch.zeros(10**15), "DefaultCPUAllocator: can't allocate memory"),
        (lambda: large_zeros(2**48, dtype=torch.uint8), "Cannot allocate memory"),
        (
            lambda: raise_again(torch.OutOfMemoryError("CUDA out of memory.\nLines.")),
            r"CUDA out of memory\.$",
        ),
        (lambda: raise_again(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")), "ALLOC_FAILED"),
    ],
)
def test_all_allocations_without_memory_raise_memory_error(
    allocate: Callable[[], object], reason: str
) -> None:
    with pytest.raises(MemoryError, match=reason), memory_errors():
        allocate()


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), FileNotFoundError(2, "no file")])
def test_other_errors_are_not_changed(error: Exception) -> None:
    with pytest.raises(type(error)), memory_errors():
        raise error


def raise_again(error: Exception) -> None:
    raise error


def row_states(max_tokens: int = 200, budget_tokens: int | None = None) -> RowStates:
    return RowStates([(KEYS, KEYS)] * 3, max_rows=4, max_tokens=max_tokens, budget_tokens=budget_tokens)


def slot_states(max_tokens: int = 200, budget_tokens: int | None = None) -> SlotStates:
    return SlotStates([(KEYS, KEYS)] * 3, max_rows=4, max_tokens=max_tokens, budget_tokens=budget_tokens)


def written(states: RowStates | SlotStates, row: int) -> Tensor:
    """Returns the memory of a row's last layer, to write and to read, [tokens, …]."""
    if isinstance(states, RowStates):
        return states.rows[row][2, 1, 0]
    return states.layers[2][1][row, 0]


def rooms(states: RowStates | SlotStates) -> int:
    """Returns how many tokens all rows have room for."""
    return sum(states.rooms) if isinstance(states, RowStates) else states.rows * states.tokens


def test_a_row_grows_alone_and_keeps_its_tokens() -> None:
    states = row_states()
    states.make_room([0, 0, 5])
    states.rows[2].copy_(torch.arange(states.rows[2].numel()).view(states.rows[2].shape))
    before = states.rows[2].clone()
    states.make_room([0, 0, BLOCK_TOKENS + 1])
    assert states.rows[2].shape[3] > BLOCK_TOKENS
    assert torch.equal(states.rows[2][:, :, :, : before.shape[3]], before)
    assert [row.shape[3] for row in states.rows[:2]] == [0, 0]


def test_a_large_row_keeps_its_tokens() -> None:
    """Each layer is freed as soon as it has been copied."""
    states = row_states(max_tokens=50_000)
    states.make_room([20_000])
    states.rows[0].copy_(torch.arange(states.rows[0].numel()).view(states.rows[0].shape))
    before = states.rows[0].clone()
    assert before.nbytes > LARGE_PAGE
    states.make_room([40_000])
    assert torch.equal(states.rows[0][:, :, :, : before.shape[3]], before)


GROW_IN_A_PROCESS = """
import torch
from pathlib import Path
from worker.engine.native.rows import RowStates

def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

keys = torch.zeros(1, 8, 1, 128)
states = RowStates([(keys, keys)] * 16, max_rows=1, max_tokens=2048)
before = kib("VmRSS")
states.make_room([1024])
states.rows[0].fill_(1)
states.make_room([2048])
print((kib("VmHWM") - before) / (states.rows[0].nbytes / 1024))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells how much memory was used")
def test_a_row_that_grows_is_never_in_memory_twice() -> None:
    """With a whole copy of the old row, the peak would be 1.6 times the new row."""
    command = [sys.executable, "-c", GROW_IN_A_PROCESS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert float(done.stdout) < 1.3


def test_a_row_does_not_shrink() -> None:
    states = row_states()
    states.make_room([20])
    address = states.rows[0].data_ptr()
    states.make_room([3])
    assert states.rows[0].data_ptr() == address == states.pointers[0].states


def test_a_row_does_not_grow_beyond_the_longest_sequence() -> None:
    states = row_states(max_tokens=40)
    states.make_room([0, 39])
    assert states.rows[1].shape[3] == 40
    assert states.pointers[1].room == 40


def test_rows_change_places_without_a_copy() -> None:
    states = row_states()
    states.make_room([5, 0, 0, 90])
    addresses = [states.rows[0].data_ptr(), states.rows[3].data_ptr()]
    states.exchange(0, 3)
    assert [states.rows[3].data_ptr(), states.rows[0].data_ptr()] == addresses
    assert [(p.states, p.room) for p in (states.pointers[3], states.pointers[0])] == [
        (row.data_ptr(), row.shape[3]) for row in (states.rows[3], states.rows[0])
    ]


@pytest.mark.parametrize("make", [row_states, slot_states])
def test_one_row_may_use_the_whole_budget(make: Callable[..., RowStates | SlotStates]) -> None:
    states = make(max_tokens=200, budget_tokens=210)
    states.make_room([30] * 4)
    states.make_room([200])
    assert rooms(states) <= 210
    assert not states.fits([200, 1])
    with pytest.raises(MemoryError, match="KV_CACHE_GIB holds 210 tokens"):
        states.make_room([200, 1])


@pytest.mark.parametrize("make", [row_states, slot_states])
@settings(deadline=None)
@given(st.data())
def test_any_rows_that_fit_get_their_room(
    make: Callable[..., RowStates | SlotStates], data: st.DataObject
) -> None:
    """Rows come, grow and leave. They stay within the budget and keep their tokens, even if memory ends."""
    states = make(max_tokens=200, budget_tokens=320)
    lengths: list[int] = []
    for _ in range(data.draw(st.integers(1, 12))):
        kept = lengths[: data.draw(st.integers(0, len(lengths)))]
        lengths = [min(200, tokens + data.draw(st.integers(0, 60))) for tokens in kept]
        lengths += data.draw(st.lists(st.integers(0, 150), max_size=4 - len(kept)))
        try:
            states.make_room(lengths)
        except MemoryError:
            assert not states.fits(lengths)
            lengths = kept
        assert rooms(states) <= 320
        for row, tokens in enumerate(lengths):
            held = kept[row] if row < len(kept) else 0
            assert (written(states, row)[:held] == row + 1).all()
            assert len(written(states, row)) >= tokens
            written(states, row)[:tokens] = row + 1


def test_tokens_are_kept_when_only_some_layers_could_grow() -> None:
    """The second layer is so large that the system has memory for only a few of its tokens."""
    small = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    samples = [(small, small), (small.expand(1, 2**19, 1, 1), small.expand(1, 2**19, 1, 1))]
    states = SlotStates(samples, max_rows=4, max_tokens=2**28, budget_tokens=2**28)
    states.make_room([20] * 4)
    for keys, values in states.layers:
        keys[0, :, :20] = values[0, :, :20] = 7
    with pytest.raises(MemoryError):
        states.make_room([2**28])
    for row_count in (1, 3):
        states.make_room([20] * row_count)
        for keys, values in states.layers:
            assert keys.shape == values.shape
            assert keys.shape[0] >= row_count
            assert (keys[0, :, :20] == 7).all()
            assert (values[0, :, :20] == 7).all()


def test_layers_of_different_shapes_are_not_uniform() -> None:
    assert is_uniform([(KEYS, KEYS), (KEYS, KEYS)])
    assert not is_uniform([(KEYS, KEYS), (KEYS[:, :1], KEYS[:, :1])])
    assert not is_uniform([(KEYS, KEYS.bfloat16())])
