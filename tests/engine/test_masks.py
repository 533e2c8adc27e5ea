"""Masks in each style: which tokens a query reads."""

from __future__ import annotations

import pytest
import torch

from worker.engine.torch.masks import Masks, Style
from worker.engine.torch.slot_cache import Window

PROMPT = Window(0, torch.arange(3).expand(2, -1), 3)
STEP = Window(0, torch.tensor([[2], [4]]), 5)
CAUSAL = [[True, False, False], [True, True, False], [True, True, True]]


def masks(style: Style, **windows: int | None) -> Masks:
    return Masks(style, torch.float32, windows)


@pytest.mark.parametrize("style", [Style.KERNEL, Style.PRODUCTS, Style.IMPLICIT])
def test_a_prompt_needs_no_mask(style: Style) -> None:
    assert masks(style).of(PROMPT, [3, 2], is_start=True) is None


@pytest.mark.parametrize("style", list(Style))
def test_a_later_chunk_needs_one(style: Style) -> None:
    chunk = Window(0, torch.tensor([[1, 2]]), 3)
    mask = masks(style).of(chunk, [3], is_start=False)
    assert isinstance(mask, torch.Tensor)
    visible = mask if style is not Style.ADDED else mask == 0
    assert visible.tolist() == [[CAUSAL[1:]]]


def test_models_that_need_a_mask_get_one_for_a_prompt() -> None:
    mask = masks(Style.BOOLEAN).of(PROMPT, [3, 2], is_start=True)
    assert isinstance(mask, torch.Tensor)
    assert mask.tolist() == [[CAUSAL], [CAUSAL]]
    added = masks(Style.ADDED).of(PROMPT, [3, 2], is_start=True)
    assert isinstance(added, torch.Tensor)
    assert torch.equal(added == 0, mask)
    assert added.max() == 0
    assert added.min() == torch.finfo(torch.float32).min


def test_a_steps_mask_has_lengths_numbers_or_booleans() -> None:
    lengths = masks(Style.KERNEL).of(STEP, [3, 5], is_start=False)
    assert isinstance(lengths, torch.Tensor)
    assert lengths.flatten().tolist() == [3, 5]
    added = masks(Style.PRODUCTS).of(STEP, [3, 5], is_start=False)
    assert isinstance(added, torch.Tensor)
    assert added.tolist() == [[[[0, 0, 0, -torch.inf, -torch.inf]]], [[[0] * 5]]]
    visible = masks(Style.IMPLICIT).of(STEP, [3, 5], is_start=False)
    assert isinstance(visible, torch.Tensor)
    assert torch.equal(visible, added == 0)


@pytest.mark.parametrize("style", [Style.PRODUCTS, Style.IMPLICIT])
def test_a_step_of_equal_lengths_needs_no_mask_unless_more_is_read(style: Style) -> None:
    equal = Window(0, torch.tensor([[4], [4]]), 5)
    assert masks(style).of(equal, [5, 5], is_start=False) is None
    single = Window(0, torch.tensor([[0]]), 5)
    assert masks(style).of(single, [1], is_start=True) is not None


@pytest.mark.parametrize("style", list(Style))
def test_a_window_hides_earlier_tokens(style: Style) -> None:
    mask = masks(style, sliding_attention=2).of(STEP, [3, 5], is_start=False)
    assert isinstance(mask, torch.Tensor)
    visible = mask if mask.dtype == torch.bool else mask == 0
    assert visible.tolist() == [[[[False, True, True, False, False]]], [[[False, False, False, True, True]]]]


@pytest.mark.parametrize("style", list(Style))
def test_each_kind_of_layer_has_its_mask(style: Style) -> None:
    windowed = masks(style, full_attention=None, sliding_attention=2)
    of_both = windowed.of(STEP, [3, 5], is_start=False)
    assert isinstance(of_both, dict)
    alone = masks(style).of(STEP, [3, 5], is_start=False)
    assert isinstance(alone, torch.Tensor)
    assert of_both["full_attention"] is not None
    assert torch.equal(of_both["full_attention"], alone)
    narrow = masks(style, sliding_attention=2).of(STEP, [3, 5], is_start=False)
    assert isinstance(narrow, torch.Tensor)
    assert of_both["sliding_attention"] is not None
    assert torch.equal(of_both["sliding_attention"], narrow)


@pytest.mark.parametrize("style", list(Style))
def test_a_window_that_no_sequence_exceeds_does_not_matter(style: Style) -> None:
    windowed = masks(style, full_attention=None, sliding_attention=5).of(STEP, [3, 5], is_start=False)
    plain = masks(style).of(STEP, [3, 5], is_start=False)
    assert isinstance(windowed, torch.Tensor)
    assert isinstance(plain, torch.Tensor)
    assert torch.equal(windowed, plain)
