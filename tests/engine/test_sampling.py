"""A token is drawn from its row's distribution, with noise that depends only on seed, choice and position."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.request import MAX_SEED
from worker.engine.base import SamplingParams
from worker.engine.sampling import (
    LEAST_LOGPROB,
    NO_TOKEN,
    Row,
    _filter,
    noise_key,
    sample,
    top_logprobs,
)

VOCAB = 50


def row(
    seed: int = 0,
    *,
    position: int = 0,
    choice: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Row:
    sampling = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return Row(sampling, noise_key(seed, choice, position), None)


def random_logits(rows: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2


def draws(logits: Tensor, count: int, **options: float) -> list[int]:
    """Returns many draws from one row, at consecutive positions."""
    rows = [row(42, position=position, **options) for position in range(count)]  # type: ignore[arg-type]
    return sample(logits.expand(count, -1), rows)


def allowed(logits: list[float], temperature: float, top_k: int, top_p: float) -> set[int]:
    """Implements top_k and top_p plainly: best first, ties by lower id, until top_p is reached."""
    order = sorted(range(len(logits)), key=lambda token_id: (-logits[token_id], token_id))
    order = order[: top_k or None]
    weights = [math.exp((logits[token_id] - max(logits)) / temperature) for token_id in order]
    kept, reached = set(), 0.0
    for token_id, weight in zip(order, weights, strict=True):
        if reached >= top_p * sum(weights):
            break
        kept.add(token_id)
        reached += weight
    return kept


def chi_square(counts: Counter[int], expected: dict[int, float]) -> float:
    return sum((counts[token_id] - value) ** 2 / value for token_id, value in expected.items())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_tokens_are_drawn_with_the_probabilities_of_softmax(temperature: float) -> None:
    logits = torch.linspace(0, 3, 12)
    count = 20_000
    counts = Counter(draws(logits, count, temperature=temperature))
    probabilities = (logits.double() / temperature).softmax(-1).tolist()
    expected = {token_id: count * p for token_id, p in enumerate(probabilities)}
    # With 11 degrees of freedom, one in a thousand seeds exceeds 31.3. The seed is fixed.
    assert chi_square(counts, expected) < 31.3


@pytest.mark.parametrize("varied", ["seed", "choice", "position"])
def test_noise_is_independent_along_each_of_its_coordinates(varied: str) -> None:
    """Pairs of neighbouring draws from a uniform vocabulary are uniform."""
    logits, count = torch.zeros(4), 16_000
    rows = [row(**{**{"seed": 9}, varied: value}) for value in range(count)]
    token_ids = sample(logits.expand(count, -1), rows)
    pairs = Counter(4 * a + b for a, b in zip(token_ids[::2], token_ids[1::2], strict=True))
    # The limit for 15 degrees of freedom, which one in a thousand seeds exceeds.
    assert chi_square(pairs, dict.fromkeys(range(16), count / 2 / 16)) < 37.7


def test_filtered_tokens_keep_their_relative_probabilities() -> None:
    logits = torch.linspace(0, 3, 12)
    count = 10_000
    counts = Counter(draws(logits, count, top_k=4))
    expected = {8 + index: count * p for index, p in enumerate(logits[8:].double().softmax(-1).tolist())}
    assert set(counts) == set(expected)
    # The limit for 3 degrees of freedom, which one in a thousand seeds exceeds.
    assert chi_square(counts, expected) < 16.3


@pytest.mark.parametrize("top_k", [0, 1, 3, VOCAB, 10**9])
@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.9, 1.0])
def test_top_k_and_top_p_allow_what_a_plain_implementation_allows(top_k: int, top_p: float) -> None:
    # So flat that each allowed token is drawn.
    logits = random_logits(1, seed=5)[0] / 4
    seen = set(draws(logits, 6000, temperature=1.3, top_k=top_k, top_p=top_p))
    assert seen == allowed(logits.tolist(), 1.3, top_k, top_p)


@pytest.mark.parametrize("min_p", [1e-6, 0.2, 0.7, 1.0])
def test_min_p_keeps_a_share_of_the_best_tokens_probability(min_p: float) -> None:
    logits = random_logits(1, seed=5)[0] / 4
    probabilities = (logits / 1.3).softmax(-1)
    expected = (probabilities >= min_p * probabilities.max()).nonzero()[:, 0].tolist()
    assert set(draws(logits, 6000, temperature=1.3, min_p=min_p)) == set(expected)


def test_min_p_and_top_k_both_hold() -> None:
    logits = torch.tensor([3.0, 2.9, 2.8, -5.0])
    assert set(draws(logits, 500, min_p=0.5)) == {0, 1, 2}
    assert set(draws(logits, 500, min_p=0.5, top_k=2)) == {0, 1}
    assert set(draws(logits, 500, min_p=0.95, top_k=3)) == {0}


def test_logprobs_are_the_models_own() -> None:
    logits = random_logits(4).bfloat16()
    reference = logits.double().log_softmax(-1)
    token_ids = [3, 4, 5, 6]
    nothing, single, several, all_of_them = top_logprobs(logits, token_ids, [None, 0, 3, VOCAB])
    assert nothing is None
    assert single is not None
    assert single.logprob == pytest.approx(reference[1, 4].item(), abs=1e-5)
    assert single.top == ()
    assert several is not None
    assert [token_id for token_id, _ in several.top] == reference[2].topk(3).indices.tolist()
    assert several.top[0][1] == pytest.approx(reference[2].max().item(), abs=1e-5)
    assert all_of_them is not None
    assert len(all_of_them.top) == VOCAB
    assert sum(math.exp(value) for _, value in all_of_them.top) == pytest.approx(1, abs=1e-4)


def test_impossible_tokens_have_a_finite_logprob() -> None:
    [logprobs] = top_logprobs(torch.tensor([[1.0, -torch.inf]]), [0], [2])
    assert logprobs is not None
    assert logprobs.top == ((0, 0.0), (1, LEAST_LOGPROB))


def test_top_k_takes_the_lower_ids_of_equal_logits() -> None:
    assert set(draws(torch.zeros(10), 500, top_k=3)) == {0, 1, 2}


@given(
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 60),
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, MAX_SEED),
    position=st.integers(0, 10**6),
)
@settings(max_examples=200, deadline=None)
def test_any_parameters_draw_an_allowed_token(
    temperature: float, top_k: int, top_p: float, seed: int, position: int
) -> None:
    logits = random_logits(1)
    [token_id] = sample(
        logits, [row(seed, position=position, temperature=temperature, top_k=top_k, top_p=top_p)]
    )
    # Slightly more than top_p is allowed, because rounding decides where the sum is near top_p.
    widened = min(1.0, top_p * (1 + 1e-5))
    assert token_id in allowed(logits[0].tolist(), max(temperature, 1e-5), top_k, widened)


def test_greedy_rows_take_the_maximum() -> None:
    logits = random_logits(8)
    assert sample(logits, [row(seed, temperature=0) for seed in range(8)]) == logits.argmax(-1).tolist()


def test_a_row_draws_the_same_whatever_else_is_in_the_batch() -> None:
    logits = random_logits(40)
    dice = random.Random(3)
    rows = [
        row(
            dice.randint(0, MAX_SEED),
            position=dice.randint(0, 99),
            choice=dice.randint(0, 7),
            temperature=dice.choice([0, 0.7, 1.5]),
            top_k=dice.choice([0, 5]),
            top_p=dice.choice([0.8, 1]),
        )
        for _ in range(40)
    ]
    together = sample(logits, rows)
    alone = [sample(logits[index : index + 1], [rows[index]])[0] for index in range(40)]
    shuffled = list(range(40))
    dice.shuffle(shuffled)
    reordered = sample(logits[shuffled], [rows[index] for index in shuffled])
    assert alone == together
    assert reordered == [together[index] for index in shuffled]


def test_seed_choice_and_position_each_change_the_noise() -> None:
    for seed in (0, 1, MAX_SEED):
        keys = {noise_key(seed + a, b, c) for a in (0, -1) for b in range(8) for c in range(100)}
        assert len(keys) == 1600


def test_noise_is_the_same_in_every_release() -> None:
    """A sequence may be continued by a worker of the next release."""
    token_ids = draws(torch.zeros(1000), 5)
    assert token_ids == [744, 457, 384, 352, 894]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}])
@pytest.mark.parametrize("bad", [[math.nan], [math.inf], [-math.inf] * VOCAB])
def test_a_spoilt_row_has_no_token_and_does_not_affect_others(
    options: dict[str, float], bad: list[float]
) -> None:
    logits = random_logits(3)
    rows = [row(seed, **options) for seed in range(3)]  # type: ignore[arg-type]
    expected = sample(logits, rows)
    logits[1, : len(bad)] = torch.tensor(bad)
    assert sample(logits, rows) == [expected[0], NO_TOKEN, expected[2]]


@pytest.mark.parametrize("temperature", [0.0, 1e-4, 1.0, 2.0])
def test_excluded_tokens_are_never_drawn(temperature: float) -> None:
    logits = torch.full((20,), -math.inf)
    logits[[4, 9]] = 1.0
    assert set(draws(logits, 200, temperature=temperature)) <= {4, 9}


def test_large_logits_over_a_small_temperature_do_not_overflow() -> None:
    assert set(draws(torch.tensor([1e35, 2e35, 1.0]), 50, temperature=1e-4)) == {1}


def test_top_p_of_one_keeps_every_token_despite_rounding() -> None:
    scores = torch.randn(8, 100_000, generator=torch.Generator().manual_seed(0))
    assert _filter(scores, [row(top_k=10**6)] * 8).isfinite().all()


def test_half_precision_logits_are_sampled_in_single_precision() -> None:
    logits = random_logits(4000).bfloat16()
    rows = [row(seed, temperature=0.9, top_p=0.9) for seed in range(4000)]
    assert sample(logits, rows) == sample(logits.float(), rows)
