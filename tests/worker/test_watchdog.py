"""When the watchdog takes a thread for stuck, with a clock that the test controls."""

from __future__ import annotations

from worker.watchdog import Activity, Stillness

LONGEST_GAP = 2.0


class Thread:
    """A watched thread and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.progress: int | None = 1
        self.stillness = Stillness(lambda: self.progress, LONGEST_GAP, lambda: self.now)
        self.stillness.look()

    def look_after(self, seconds: float) -> float:
        self.now += seconds
        return self.stillness.look()


def test_a_thread_that_hangs_is_noticed() -> None:
    thread = Thread()
    assert [thread.look_after(1) for _ in range(3)] == [1, 2, 3]


def test_a_slow_thread_that_makes_progress_does_not_hang() -> None:
    thread = Thread()
    for progress in range(2, 100):
        assert thread.look_after(1) < 2
        thread.progress = progress
        assert thread.look_after(1) == 0


def test_a_thread_that_waits_for_work_does_not_hang() -> None:
    thread = Thread()
    thread.progress = None
    assert [thread.look_after(1) for _ in range(3)] == [0, 0, 0]


def test_a_pause_of_the_process_is_not_a_hang() -> None:
    """However long the pause was, it counts as two looks at most."""
    thread = Thread()
    assert [thread.look_after(seconds) for seconds in (1, 10_000, 1)] == [1, 1 + LONGEST_GAP, 2 + LONGEST_GAP]


def test_a_wait_for_work_counts_as_progress() -> None:
    """Otherwise two steps of one kind, with a wait in between, would look like a single long step."""
    activity = Activity()
    assert activity.progress is None, "no work has started"
    activity.moved_on()
    before = activity.progress
    with activity.idle():
        assert activity.progress is None
    assert activity.progress not in (None, before)
