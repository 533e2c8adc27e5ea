"""How many tokens a step may take, on machines of any speed."""

from __future__ import annotations

import pytest

from worker.engine.pace import FIRST_TOKENS, LEAST_TOKENS, STEP_SECONDS, Pace

MOST = 2048


def run(pace: Pace, seconds_per_token: float, steps: int = 20) -> None:
    for _ in range(steps):
        pace.learn(pace.tokens, pace.tokens * seconds_per_token)


@pytest.mark.parametrize(
    ("seconds_per_token", "tokens"), [(0, MOST), (0.001, 256), (0.01, 32), (1, LEAST_TOKENS)]
)
def test_a_step_takes_up_to_half_a_second(seconds_per_token: float, tokens: int) -> None:
    pace = Pace(MOST)
    run(pace, seconds_per_token)
    assert pace.tokens == tokens
    assert tokens * seconds_per_token <= STEP_SECONDS or tokens == LEAST_TOKENS


@pytest.mark.parametrize(("seconds_per_token", "tokens"), [(0, MOST), (0.0001, 512), (0.01, 128)])
def test_a_shorter_time_and_a_least_can_be_set(seconds_per_token: float, tokens: int) -> None:
    pace = Pace(MOST, least=128, seconds=0.1)
    assert pace.tokens == 128
    run(pace, seconds_per_token)
    assert pace.tokens == tokens


def test_one_slow_step_is_enough_to_take_less_and_fast_ones_bring_it_back() -> None:
    pace = Pace(MOST)
    run(pace, 0)
    pace.learn(MOST, 60.0)
    assert pace.tokens == LEAST_TOKENS
    run(pace, 0)
    assert pace.tokens == MOST


def test_the_time_of_a_short_prompt_says_nothing_about_long_ones() -> None:
    """A pass takes a minimum of time, which would look like the time of its few tokens."""
    pace = Pace(MOST)
    run(pace, 0.001)
    before = pace.tokens
    pace.learn(1, 0.02)
    assert pace.tokens == before


def test_a_little_too_slow_is_no_reason_to_change() -> None:
    """If chunks switched between two sizes, torch would round in two ways."""
    pace = Pace(MOST)
    run(pace, 0.001)
    pace.learn(pace.tokens, 1.4 * STEP_SECONDS)
    assert pace.tokens == 256


def test_a_step_never_exceeds_the_room() -> None:
    pace = Pace(8)
    assert pace.tokens == 8 < FIRST_TOKENS
    run(pace, 0)
    assert pace.tokens == 8
    pace.limit(4)
    run(pace, 0)
    assert pace.tokens == 4
