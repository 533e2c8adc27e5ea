"""Which sequences join, wait and are preempted, with real memory but without a model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engine.base import SamplingParams
from worker.engine.native.rows import RowStates
from worker.engine.torch.slot_cache import SlotStates
from worker.engine.transformers.scheduler import GROWTH_TOKENS, Scheduler
from worker.engine.transformers.sequence import SequenceState

SLOTS, LONGEST = 6, 256

KEYS = torch.zeros(1, 1, 1, 2)


class Rows(RowStates):
    """The native decoder's rows, with the interface of its forward."""

    def move(self, source: int, target: int, tokens: int) -> None:  # noqa: ARG002
        self.exchange(source, target)


def native(budget_tokens: int) -> Rows:
    return Rows([(KEYS, KEYS)], SLOTS, LONGEST, budget_tokens)


def rectangle(budget_tokens: int) -> SlotStates:
    return SlotStates([(KEYS, KEYS)], SLOTS, LONGEST, budget_tokens)


Make = Callable[[int], Rows | SlotStates]


@pytest.fixture(params=[native, rectangle])
def make(request: pytest.FixtureRequest) -> Make:
    chosen: Make = request.param
    return chosen


def sequence(name: str, tokens: int, max_tokens: int = 1000) -> SequenceState:
    return SequenceState(name, [5] * tokens, tokens, SamplingParams(max_tokens=max_tokens))


class Steps:
    """Uses a scheduler as the engine does."""

    def __init__(self, rows: Rows | SlotStates, *, pads: bool = False) -> None:
        self.rows = rows
        self.scheduler = Scheduler(rows, SLOTS, LONGEST, pads=pads)
        self.ended: list[str] = []

    def add(self, *sequences: SequenceState) -> None:
        for one in sequences:
            self.scheduler.add(one)

    def step(self, budget: int = 100) -> list[str]:
        """Runs a step; returns the sequences that get a token."""
        scheduler = self.scheduler
        scheduler.schedule(budget)
        while not self._has_room(scheduler.lengths()):
            rows = [*scheduler.running, *(one for one in scheduler.joining if one.prefilled)]
            assert len(rows) > 1, "the oldest sequence must keep its row"
            scheduler.preempt_youngest()
        self._prefill(budget)
        for one in scheduler.running:
            one.token_ids.append(5)
        names = [one.request_id for one in scheduler.running]
        ending = [
            s
            for s in scheduler.running
            if len(s.token_ids) >= LONGEST or s.output_tokens >= s.sampling.max_tokens
        ]
        self.ended += [one.request_id for one in ending]
        scheduler.finish(ending)
        return names

    def _prefill(self, budget: int) -> None:
        joining = [*self.scheduler.joining]
        ends = [min(one.prefilled + budget, len(one.token_ids)) for one in joining]
        if not self._has_room(self.scheduler.lengths(ends)):
            [chunked] = joining
            self.scheduler.preempt(chunked)
            return
        for one, end in zip(joining, ends, strict=True):
            one.prefilled = end
        if ends == [len(one.token_ids) for one in joining]:
            self.scheduler.start_running(joining)

    def _has_room(self, lengths: list[int]) -> bool:
        try:
            self.rows.make_room(lengths)
        except MemoryError:
            return False
        return True


def test_all_join_at_once_if_there_is_room(make: Make) -> None:
    steps = Steps(make(SLOTS * LONGEST))
    steps.add(*(sequence(name, 10) for name in "abc"))
    assert steps.step() == ["a", "b", "c"]


def test_a_sequence_joins_if_it_fits_with_room_to_grow(make: Make) -> None:
    """Two sequences of 10 tokens may grow to 74, which takes 96 each, so a third one has to wait."""
    steps = Steps(make(2 * 96 + 64))
    steps.add(*(sequence(name, 10, max_tokens=20) for name in "abc"))
    assert steps.step() == ["a", "b", "c"], "they cannot grow beyond their max_tokens"
    steps = Steps(make(2 * 96 + 64))
    steps.add(*(sequence(name, 10) for name in "abc"))
    assert steps.step() == ["a", "b"]
    assert 10 + GROWTH_TOKENS < 96


def test_the_youngest_is_preempted_and_comes_back_when_another_has_left(make: Make) -> None:
    steps = Steps(make(LONGEST))
    steps.add(sequence("a", 10, max_tokens=200), sequence("b", 10, max_tokens=200), sequence("c", 5))
    seen: list[list[str]] = []
    while not steps.scheduler.is_idle():
        seen.append(steps.step(300))
    assert [names for names, _ in groupby(seen)] == [["a", "b"], ["a"], ["b"], ["c"]]
    assert len([names for names in seen if "a" in names]) == 200, "the oldest gained a token in every step"
    assert steps.scheduler.preemptions == 1


def test_nobody_joins_after_a_preemption_until_a_sequence_has_left(make: Make) -> None:
    steps = Steps(make(LONGEST))
    steps.add(sequence("a", 60, max_tokens=180), sequence("b", 10))
    while not steps.scheduler.preemptions:
        steps.step()
    steps.add(sequence("tiny", 1, max_tokens=1))
    while "a" not in steps.ended:
        assert steps.step() == ["a"]
    assert "b" in steps.step()


def test_an_abort_lets_others_join(make: Make) -> None:
    steps = Steps(make(LONGEST))
    steps.add(sequence("a", 100), sequence("b", 50))
    assert steps.step(200) == ["a"]
    steps.scheduler.abort("a")
    assert steps.step(200) == ["b"]
    steps.add(sequence("c", 200), sequence("d", 1, max_tokens=1))
    assert steps.step(300) == ["b"]
    steps.scheduler.abort("c")
    assert steps.step(300) == ["b", "d"], "the sequence that did not fit has left"


def test_a_long_prompt_joins_by_chunks_and_is_preempted_first(make: Make) -> None:
    steps = Steps(make(LONGEST))
    steps.add(sequence("a", 10))
    steps.step()
    steps.add(sequence("long", 50, max_tokens=2))
    steps.step(10)
    assert [one.request_id for one in steps.scheduler.joining] == ["long"]
    steps.scheduler.preempt_youngest()
    assert steps.scheduler.joining == []
    assert [one.request_id for one in steps.scheduler.waiting] == ["long"]
    assert steps.scheduler.waiting[0].prefilled == 0
    assert steps.step(10) == ["a"]


def test_a_preempted_sequence_leaves_no_memory_behind(make: Make) -> None:
    """When it is alone it may join again at once, so its old memory must have been freed."""
    steps = Steps(make(LONGEST))
    steps.add(sequence("a", 10), sequence("b", 10))
    steps.step()
    for name in "ba":
        steps.scheduler.preempt_youngest()
        assert steps.scheduler.waiting[0].request_id == name
    rows = steps.rows
    assert (sum(rows.rooms) if isinstance(rows, RowStates) else rows.rows) == 0
    assert steps.step() == ["a", "b"]


def test_padding_bounds_a_group() -> None:
    for pads, expected in ((True, ["a"]), (False, ["a", "b"])):
        steps = Steps(rectangle(SLOTS * LONGEST), pads=pads)
        steps.add(sequence("a", 1), sequence("b", 60))
        assert steps.step(100) == expected


def test_slots_and_ids_are_counted_wherever_a_sequence_is() -> None:
    steps = Steps(native(LONGEST))
    steps.add(*(sequence(f"s{index}", 100) for index in range(SLOTS)))
    steps.step()
    with pytest.raises(ValueError, match="s3 is in the batch already"):
        steps.add(sequence("s3", 1))
    with pytest.raises(ValueError, match=f"all {SLOTS} slots are taken"):
        steps.add(sequence("new", 1))


class Arrival(NamedTuple):
    """A sequence that comes `pause` steps after the previous one and is aborted `abort_after` steps later."""

    pause: int
    tokens: int
    max_tokens: int
    abort_after: int | None


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        st.integers(0, 3),
        st.integers(1, 200),
        st.integers(1, 120),
        st.none() | st.integers(0, 30),
    ),
    max_size=12,
)


def advance_of(sequence: SequenceState) -> int:
    return len(sequence.token_ids) + sequence.prefilled


@pytest.mark.parametrize("make", [native, rectangle])
@pytest.mark.parametrize("pads", [False, True])
@settings(max_examples=100, deadline=None)
@given(ARRIVALS, st.integers(LONGEST, 2 * LONGEST), st.sampled_from([20, 100, 300]))
def test_every_sequence_ends_whatever_comes(
    make: Make, pads: bool, arrivals: list[Arrival], budget_tokens: int, prefill_tokens: int
) -> None:
    """The oldest advances in every step. Sequences that wait came after those that have a row."""
    steps = Steps(make(budget_tokens), pads=pads)
    scheduler, coming = steps.scheduler, deque(enumerate(arrivals))
    aborts: dict[int, list[str]] = {}
    now, free_at = 0, 0
    while coming or not scheduler.is_idle():
        while coming and free_at + coming[0][1].pause <= now and len(scheduler.sequences()) < SLOTS:
            index, arrival = coming.popleft()
            steps.add(sequence(f"s{index}", arrival.tokens, arrival.max_tokens))
            free_at = now
            if arrival.abort_after is not None:
                aborts.setdefault(now + arrival.abort_after, []).append(f"s{index}")
        for name in aborts.pop(now, []):
            scheduler.abort(name)
        oldest = min(scheduler.sequences(), key=lambda one: one.arrival, default=None)
        before = 0 if oldest is None else advance_of(oldest)
        steps.step(prefill_tokens)
        assert oldest is None or advance_of(oldest) > before
        holders = [*scheduler.running, *scheduler.joining]
        order = [one.arrival for one in scheduler.waiting]
        assert order == sorted(order)
        assert not order or all(one.arrival < order[0] for one in holders)
        now += 1
    unharmed = {f"s{index}" for index, arrival in enumerate(arrivals) if arrival.abort_after is None}
    assert unharmed <= set(steps.ended)
