"""Penalties change the logits of tokens that the prompt or the output has already."""

from __future__ import annotations

import pytest
import torch

from worker.engine.base import SamplingParams
from worker.engine.penalties import Penalties
from worker.engine.sampling import Row, noise_key, sample


def penalized(logits: list[float], prompt: list[int], output: list[int], **options: float) -> list[float]:
    """Implements the penalties plainly, token by token."""
    sampling = SamplingParams(max_tokens=1, **options)
    answer = list(logits)
    for token_id in {*prompt, *output}:
        r = sampling.repetition_penalty
        answer[token_id] = answer[token_id] / r if answer[token_id] > 0 else answer[token_id] * r
    for token_id in set(output):
        answer[token_id] -= sampling.presence_penalty
        answer[token_id] -= sampling.frequency_penalty * output.count(token_id)
    return answer


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.5},
        {"presence_penalty": 1.5},
        {"frequency_penalty": -0.5},
        {"repetition_penalty": 1.2, "presence_penalty": -0.3, "frequency_penalty": 0.8},
    ],
)
def test_penalties_equal_those_of_a_plain_implementation(options: dict[str, float]) -> None:
    prompt, output = [1, 2, 3, 3], [3, 7, 7, 9]
    logits = torch.randn(50, generator=torch.Generator().manual_seed(1)) * 2
    expected = torch.tensor(penalized(logits.tolist(), prompt, output, **options))
    sampling = SamplingParams(max_tokens=9, **options)
    penalties = Penalties(sampling, prompt, output[:2])
    for token_id in output[2:]:
        penalties.count(token_id)
    actual = logits.clone()
    penalties.apply(actual)
    torch.testing.assert_close(actual, expected)


def test_penalties_change_their_own_row_only_and_not_the_given_logits() -> None:
    logits = torch.tensor([[2.0, 1.9, 0.0]]).expand(3, -1).contiguous()
    before = logits.clone()
    penalties = Penalties(SamplingParams(max_tokens=1, presence_penalty=1.0), [], [0])
    greedy, key = SamplingParams(temperature=0), noise_key(0, 0, 0)
    rows = [Row(greedy, key, None), Row(greedy, key, penalties), Row(greedy, key, None)]
    assert sample(logits, rows) == [0, 1, 0]
    assert torch.equal(logits, before)


def test_penalties_that_are_off_cost_nothing() -> None:
    assert Penalties.of(SamplingParams(max_tokens=1), [1], [2]) is None
    assert Penalties.of(SamplingParams(max_tokens=1, frequency_penalty=0.1), [1], [2]) is not None
