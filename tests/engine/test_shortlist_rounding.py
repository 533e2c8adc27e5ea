"""Shortlists are right even where rounding to 8 bits has its worst effect."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.engine.shortlist_models import HIDDEN, VOCAB, Model, libraries, of_head, some_ids
from worker.engine.native.library import NativeLibrary
from worker.engine.native.shortlist import rounded_weights

pytestmark = pytest.mark.usefixtures("_restored_threads")


@pytest.fixture(params=libraries(), ids=lambda one: one.isa)
def library(request: pytest.FixtureRequest) -> NativeLibrary:
    found: NativeLibrary = request.param
    return found


def hidden_of(library: NativeLibrary, dtype: torch.dtype, token_id: int, seed: int) -> Tensor:
    """Returns the head's inputs for a token [HIDDEN], with a head that copies its inputs."""
    torch.manual_seed(seed)
    model = Model(library, dtype, of_head(lambda head: head[:HIDDEN].copy_(torch.eye(HIDDEN))))
    return model.run([token_id], [0])[1][0, :HIDDEN].double()


def combination(hidden: Tensor, wanted: float, fixed: int) -> Tensor:
    """Returns whole numbers, 0 at `fixed`. Their product with `hidden` is slightly less than `wanted`."""
    numbers = torch.zeros(HIDDEN, dtype=torch.float64)
    for index in hidden.abs().argsort(descending=True).tolist():
        if index != fixed:
            left = wanted - (numbers @ hidden).item()
            number = int(left / hidden[index].item())
            numbers[index] = max(-60, min(60, number))
    return numbers


def by_inputs(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Returns two outputs [HIDDEN], so that rounding of the inputs has its worst effect.

    The first output is slightly higher. Rounding lowers it and raises the second one.
    """
    factor = hidden.abs().max() / 127
    lost = hidden - (hidden / factor).round() * factor
    place = int(lost.abs().argmax())
    first = (60 * lost / lost.abs().max()).round()
    first[place] = 127 * lost[place].sign()
    second = combination(hidden, (2 * first @ hidden).item(), place) - first
    return first, second


def by_weights(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Returns two outputs [HIDDEN], so that rounding of the weights has its worst effect."""
    lost = (7 * hidden / hidden.abs().max()).round() / 16
    place = int(hidden.abs().argmin())
    lost[place] = 0
    middle = (7 * hidden.sign()).clone()
    middle[place] = 127
    first = middle + lost
    second = combination(hidden, (2 * lost @ hidden).item(), place) + middle - lost
    return first, second


@pytest.mark.parametrize("rivals", [by_inputs, by_weights])
def test_the_worst_cases_of_rounding(
    library: NativeLibrary,
    dtype: torch.dtype,
    dice: random.Random,
    rivals: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> None:
    seen = 0
    for token_id in some_ids(dice, 20):
        seed = dice.randrange(2**32)
        hidden = hidden_of(library, dtype, token_id, seed)
        places = dice.sample(range(VOCAB), 2)
        weights = torch.stack(rivals(hidden)) / 128
        # In bfloat16, weights that it cannot represent do not make such a pair.
        if (weights @ hidden)[0] <= 0 or not torch.equal(weights.to(dtype).double(), weights):
            continue

        def change(head: Tensor, places: list[int] = places, weights: Tensor = weights) -> None:
            head.copy_(torch.linspace(-0.1, -1, VOCAB)[:, None] * weights[0])
            head[places] = weights.to(head.dtype)

        torch.manual_seed(seed)
        model = Model(library, dtype, of_head(change))
        assert model.best([token_id]) == model.best_of_logits([token_id])
        seen += model.best_of_logits([token_id]) == places[:1]
    assert seen >= 5


@pytest.mark.parametrize(("panel", "neighbours"), [(16, 2), (64, 4)])
@pytest.mark.parametrize("outputs", [1, 64, 1025, 1500])
def test_the_error_of_rounded_weights_is_within_its_bound(
    dice: random.Random, outputs: int, panel: int, neighbours: int
) -> None:
    weight = torch.randn(outputs, 48) * 10 ** torch.empty(outputs, 1).uniform_(-44, 30)
    no_number = dice.randrange(outputs)
    weight[no_number, dice.randrange(48)] = torch.nan
    rounded = rounded_weights(weight, panel, neighbours)
    count = -(-outputs // panel) * panel
    whole = (
        rounded.panels.view(-1, 48 // neighbours, panel, neighbours)
        .transpose(1, 2)
        .reshape(count, 48)
        .double()
    )
    assert whole.abs().max() <= 127
    assert torch.equal(rounded.offsets, (-128 * whole.sum(dim=1)).int())
    scaled = whole * rounded.scales.double()[:, None]
    assert (rounded.lengths >= scaled.norm(dim=1)).all()
    assert rounded.errors[no_number] == torch.inf
    exact = torch.nn.functional.pad(weight.double(), (0, 0, 0, count - outputs))
    exact[no_number] = 0
    assert (rounded.errors >= (exact - scaled).norm(dim=1)).all()
    # The bound is not much larger than the error: weights of usual size lose at most half a step each.
    usual = exact.abs().amax(dim=1) > 1e-15
    usual[no_number] = False
    assert (rounded.errors[usual] <= 0.51 * rounded.scales[usual] * 48**0.5).all()
