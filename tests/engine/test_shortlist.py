"""The tokens of shortlists are those that the head's whole product gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.shortlist_models import ROWS, VOCAB, Model, libraries, of_head, some_ids
from worker.engine.forward import Draw
from worker.engine.native.library import NativeLibrary
from worker.engine.native.shortlist import MANY, PAUSE, Shortlists
from worker.engine.sampling import NO_TOKEN, best_tokens

pytestmark = pytest.mark.usefixtures("_restored_threads")


@pytest.fixture(params=libraries(), ids=lambda one: one.isa)
def library(request: pytest.FixtureRequest) -> NativeLibrary:
    found: NativeLibrary = request.param
    return found


@pytest.mark.parametrize("vocab_size", [1, 15, 64, 333, VOCAB])
def test_tokens_equal_those_of_the_whole_product(
    library: NativeLibrary, dtype: torch.dtype, dice: random.Random, vocab_size: int
) -> None:
    """Batches have any size, threads any number, and some rows of the batch want logits."""
    model = Model(library, dtype, vocab_size=vocab_size)
    for count in range(1, ROWS):
        torch.set_num_threads(dice.choice((1, 2, 3, 7)))
        token_ids = some_ids(dice, count, vocab_size)
        expected = model.best_of_logits(token_ids)
        assert model.best(token_ids) == expected
        share = dice.choice((0.1, 0.5))
        wanted = [index for index in range(count) if dice.random() < share]
        best, logits = model.run(token_ids, wanted)
        assert best == expected
        assert best_tokens(logits).tolist() == [expected[index] for index in wanted]


def with_twins(dice: random.Random, twins: int) -> Callable[[Any], object]:
    """Makes groups of outputs that are equal, or differ by the smallest steps in a few weights."""

    def change(head: Tensor) -> None:
        width = head.shape[1]
        for _ in range(VOCAB // twins):
            group = dice.sample(range(VOCAB), twins)
            for output in group[1:]:
                head[output] = head[group[0]]
                for _ in range(dice.randrange(3)):
                    place = dice.randrange(width)
                    step = torch.tensor(dice.choice((torch.inf, -torch.inf)), dtype=head.dtype)
                    head[output, place] = torch.nextafter(head[output, place], step)

    return of_head(change)


def test_tokens_that_are_almost_tied(library: NativeLibrary, dtype: torch.dtype, dice: random.Random) -> None:
    """Rounding to 8 bits cannot distinguish them."""
    model = Model(library, dtype, with_twins(dice, 8))
    for _ in range(20):
        token_ids = some_ids(dice, ROWS)
        assert model.best(token_ids) == model.best_of_logits(token_ids)


@pytest.mark.parametrize("temperature", [0.001, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("vocab_size", [15, VOCAB])
def test_drawn_tokens_equal_those_of_the_whole_product(
    library: NativeLibrary, dtype: torch.dtype, dice: random.Random, vocab_size: int, temperature: float
) -> None:
    """The batch has greedy rows too, and tokens that rounding to 8 bits cannot distinguish."""
    model = Model(library, dtype, with_twins(dice, 8) if vocab_size == VOCAB else None, vocab_size)
    for count in (1, 2, 7, ROWS):
        torch.set_num_threads(dice.choice((1, 2, 3)))
        token_ids = some_ids(dice, count, vocab_size)
        draws = [
            None if dice.random() < 0.2 else Draw(1 / temperature, dice.randrange(2**64)) for _ in token_ids
        ]
        expected = model.drawn(token_ids, draws)
        model.decoder._shortlists = watched = Watched()
        assert model.run(token_ids, [], draws)[0] == expected
        assert watched.seen[0] > 0
        greedy = model.best_of_logits(token_ids)
        assert [b for b, d in zip(expected, draws, strict=True) if d is None] == [
            b for b, d in zip(greedy, draws, strict=True) if d is None
        ]


@pytest.mark.parametrize("factor", [1e-30, 1e-18, 1e-9, 1e9, 1e18, 1e30])
@pytest.mark.parametrize("of", ["head", "norm"])
def test_small_and_large_numbers(
    library: NativeLibrary, dtype: torch.dtype, dice: random.Random, of: str, factor: float
) -> None:
    def change(model: Any) -> None:
        with_twins(dice, 8)(model)
        (model.lm_head if of == "head" else model.model.norm).weight.mul_(factor)

    model = Model(library, dtype, change)
    for _ in range(20):
        token_ids = some_ids(dice, ROWS)
        assert model.run(token_ids, [])[0] == model.best_of_logits(token_ids)


def test_ties_go_to_the_lowest_id(library: NativeLibrary, dtype: torch.dtype, dice: random.Random) -> None:
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        twins = sorted(dice.sample(range(VOCAB), 5))

        def change(head: Tensor, twins: list[int] = twins) -> None:
            head[twins] = head[twins[0]] * 100

        best = Model(library, dtype, of_head(change)).best(some_ids(dice, ROWS))
        assert set(best).isdisjoint(twins[1:])
        assert twins[0] in best


@pytest.mark.parametrize("spoiler", [torch.nan, torch.inf, -torch.inf])
def test_there_is_no_token_if_logits_are_not_finite(
    library: NativeLibrary, dtype: torch.dtype, dice: random.Random, spoiler: float
) -> None:
    output = dice.randrange(VOCAB)
    model = Model(library, dtype, of_head(lambda head: head[output].fill_(spoiler)))
    token_ids = some_ids(dice, ROWS)
    expected = model.best_of_logits(token_ids)
    assert NO_TOKEN in expected
    assert model.run(token_ids, [])[0] == expected

    model = Model(library, dtype, lambda whole: whole.model.embed_tokens.weight[5].fill_(spoiler))
    expected = model.best_of_logits([4, 5, 6])
    assert expected[1] == NO_TOKEN
    assert NO_TOKEN not in (expected[0], expected[2])
    assert model.best([4, 5, 6]) == expected


class Watched(Shortlists):
    def __init__(self) -> None:
        super().__init__()
        self.seen = [0, 0]

    def saw(self, successes: int, failures: int) -> None:
        self.seen = [self.seen[0] + successes, self.seen[1] + failures]


@pytest.mark.parametrize("vocab_size", [600, VOCAB])
def test_a_shortlist_that_is_too_long_falls_back_to_the_whole_product(
    library: NativeLibrary, dtype: torch.dtype, vocab_size: int
) -> None:
    torch.set_num_threads(2)
    equal = of_head(lambda head: head.copy_(head[:1].clone().expand(vocab_size, -1)))
    model = Model(library, dtype, equal, vocab_size)
    model.decoder._shortlists = watched = Watched()
    assert model.run(list(range(ROWS)), [])[0] == [0] * ROWS
    assert watched.seen == [0, ROWS]


def test_shortlists_give_most_tokens(library: NativeLibrary, dtype: torch.dtype, dice: random.Random) -> None:
    model = Model(library, dtype, vocab_size=5000)
    model.decoder._shortlists = watched = Watched()
    for _ in range(5):
        model.run(some_ids(dice, ROWS, 5000), list(range(20)))
    successes, failures = watched.seen
    assert successes + failures == 5 * (ROWS - 20)
    assert failures < 10


def test_shortlists_pause_after_failures() -> None:
    shortlists = Shortlists()
    for _ in range(1000):
        assert shortlists.may_be_made(1, 0)
        shortlists.saw(1, 0)
        # A few fail.
        shortlists.saw(3, 1)
    for _ in range(3):
        while shortlists.may_be_made(1, 0):
            shortlists.saw(1, 1)
        assert not any(shortlists.may_be_made(1, 0) for _ in range(PAUSE - 1))
        assert shortlists.may_be_made(1, 0)
    assert not Shortlists().may_be_made(8, 1)
    assert Shortlists().may_be_made(MANY, 1)
    assert not Shortlists().may_be_made(0, 1)
