"""The best token of a shortlist is the token that the head's whole product gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from worker.engine.forward import Draw
from worker.engine.native.decoder import Decoder, decodable_weights
from worker.engine.native.isa import supported
from worker.engine.native.library import NativeLibrary, native_library
from worker.engine.native.rows import RowStates
from worker.engine.native.shortlist import MANY, PAUSE, Shortlists, rounded_weights
from worker.engine.sampling import NO_TOKEN, best_tokens

VOCAB = 1000
HIDDEN = 64
ROWS = 75
HEAD_DIM = 16


Draws = Sequence[Draw | None] | None

pytestmark = pytest.mark.usefixtures("_restored_threads")


def libraries() -> list[NativeLibrary]:
    """Returns the libraries of the machine's instruction sets that have shortlists."""
    found = [native_library(isa.name) for isa in supported()]
    return [one for one in found if one is not None and one.shortlist_neighbours]


@pytest.fixture(params=libraries(), ids=lambda one: one.isa)
def library(request: pytest.FixtureRequest) -> NativeLibrary:
    found: NativeLibrary = request.param
    return found


@pytest.fixture
def dice() -> random.Random:
    """A random generator with another seed in each run. A failure prints the seed."""
    seed = random.randrange(2**32)
    print("seed", seed)
    torch.manual_seed(seed)
    return random.Random(seed)


class Model:
    """A tiny random Llama, run natively."""

    def __init__(
        self,
        library: NativeLibrary,
        dtype: torch.dtype,
        change: Callable[[Any], object] | None = None,
        vocab_size: int = VOCAB,
    ) -> None:
        model_class: Any = LlamaForCausalLM
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=HIDDEN,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=HEAD_DIM,
            tie_word_embeddings=False,
        )
        model = model_class(config).to(dtype).eval()
        with torch.no_grad():
            if change is not None:
                change(model)
        weights = decodable_weights(model)
        assert weights is not None
        self.decoder = Decoder(weights, library)
        state = torch.zeros(1, 2, 1, HEAD_DIM, dtype=dtype)
        self._states = RowStates([(state, state)], ROWS, 32)

    def run(self, token_ids: list[int], wanted: list[int], draws: Draws = None) -> tuple[list[int], Tensor]:
        """Runs a first token in each row."""
        rows = list(range(len(token_ids)))
        self._states.make_room([1] * len(rows))
        return self.decoder(token_ids, rows, [0] * len(rows), rows, wanted, self._states, draws)

    def best(self, token_ids: list[int], draws: Draws = None) -> list[int]:
        """Returns the best or drawn tokens, by shortlists."""
        self.decoder._shortlists = Shortlists()
        return self.run(token_ids, [], draws)[0]

    def best_of_logits(self, token_ids: list[int]) -> list[int]:
        return best_tokens(self.run(token_ids, list(range(len(token_ids))))[1]).tolist()

    def drawn(self, token_ids: list[int], draws: Draws) -> list[int]:
        """Returns the drawn tokens, by the head's whole product."""
        return self.run(token_ids, list(range(len(token_ids))), draws)[0]


def of_head(change: Callable[[Tensor], object]) -> Callable[[Any], object]:
    return lambda model: change(model.lm_head.weight)


def some_ids(dice: random.Random, count: int, vocab_size: int = VOCAB) -> list[int]:
    return [dice.randrange(vocab_size) for _ in range(count)]


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
