"""Memory of the CPU engine: large pages, and rows of their own."""

from __future__ import annotations

import pytest
import torch

from worker.engine.memory import LARGE_PAGE, large_zeros
from worker.engine.native.rows import BLOCK_TOKENS, RowStates, is_uniform

KEYS = torch.zeros(1, 2, 1, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("count", [0, 5, 3 * LARGE_PAGE + 7])
def test_zeros_of_any_size_are_memory_like_any_other(dtype: torch.dtype, count: int) -> None:
    tensor = large_zeros(3, count, dtype=dtype)
    assert tensor.shape == (3, count)
    assert tensor.dtype == dtype
    assert tensor.is_contiguous()
    assert not tensor.any()
    tensor.fill_(1)
    assert tensor[1:].sum(dtype=torch.float64).item() == 2 * count


def row_states(max_tokens: int = 200) -> RowStates:
    return RowStates([(KEYS, KEYS)] * 3, max_rows=4, max_tokens=max_tokens)


def test_a_row_grows_alone_and_keeps_its_tokens() -> None:
    states = row_states()
    states.make_room(2, 5)
    states.rows[2].copy_(torch.arange(states.rows[2].numel()).view(states.rows[2].shape))
    before = states.rows[2].clone()
    states.make_room(2, BLOCK_TOKENS + 1)
    assert states.rows[2].shape[3] > BLOCK_TOKENS
    assert torch.equal(states.rows[2][:, :, :, : before.shape[3]], before)
    assert [row.shape[3] for row in states.rows[:2]] == [0, 0]


def test_room_that_is_there_stays() -> None:
    states = row_states()
    states.make_room(0, 20)
    address = states.rows[0].data_ptr()
    states.make_room(0, 3)
    assert states.rows[0].data_ptr() == address == states.pointers[0].states


def test_a_row_does_not_grow_beyond_the_longest_sequence() -> None:
    states = row_states(max_tokens=40)
    states.make_room(1, 39)
    assert states.rows[1].shape[3] == 40
    assert states.pointers[1].room == 40


def test_rows_change_places_without_a_copy() -> None:
    states = row_states()
    states.make_room(0, 5)
    states.make_room(3, 90)
    addresses = [states.rows[0].data_ptr(), states.rows[3].data_ptr()]
    states.exchange(0, 3)
    assert [states.rows[3].data_ptr(), states.rows[0].data_ptr()] == addresses
    assert [(p.states, p.room) for p in (states.pointers[3], states.pointers[0])] == [
        (row.data_ptr(), row.shape[3]) for row in (states.rows[3], states.rows[0])
    ]


def test_layers_of_different_shapes_are_not_uniform() -> None:
    assert is_uniform([(KEYS, KEYS), (KEYS, KEYS)])
    assert not is_uniform([(KEYS, KEYS), (KEYS[:, :1], KEYS[:, :1])])
    assert not is_uniform([(KEYS, KEYS.bfloat16())])
