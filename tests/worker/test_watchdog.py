"""What counts as standing still, by a clock of the test's own."""

from __future__ import annotations

from worker.watchdog import Activity, Stillness

LONGEST_GAP = 2.0


class Thread:
    """Something to watch, and the time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.progress: int | None = 1
        self.stillness = Stillness(lambda: self.progress, LONGEST_GAP, lambda: self.now)
        self.stillness.look()

    def look_after(self, seconds: float) -> float:
        self.now += seconds
        return self.stillness.look()


def test_a_thread_that_hangs_is_seen_to_stand_still() -> None:
    thread = Thread()
    assert [thread.look_after(1) for _ in range(3)] == [1, 2, 3]


def test_one_that_is_slow_but_moves_on_is_not() -> None:
    thread = Thread()
    for progress in range(2, 100):
        assert thread.look_after(1) < 2
        thread.progress = progress
        assert thread.look_after(1) == 0


def test_one_that_waits_for_work_is_not() -> None:
    thread = Thread()
    thread.progress = None
    assert [thread.look_after(1) for _ in range(3)] == [0, 0, 0]


def test_a_pause_of_the_process_is_not_a_hang() -> None:
    """However long it was: it counts as two looks at most."""
    thread = Thread()
    assert [thread.look_after(seconds) for seconds in (1, 10_000, 1)] == [1, 1 + LONGEST_GAP, 2 + LONGEST_GAP]


def test_a_wait_for_work_counts_as_progress() -> None:
    """Else two steps of one kind, with a wait between two looks, would seem to be one."""
    activity = Activity()
    assert activity.progress is None, "not started"
    activity.moved_on()
    before = activity.progress
    with activity.idle():
        assert activity.progress is None
    assert activity.progress not in (None, before)
