"""Validates the input file of a batch, line by line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from tasks.batch import BatchError
from web.openai.batches.lines import MAX_LINES, LineError, RawLine, parse_line

MAX_ERRORS = 100
"""Validation stops after this many errors. Nobody reads more."""

SLICE_SECONDS = 0.005
"""How long a greenlet of the feeder may take before it lets others run, which serve clients."""


class Slices:
    """Lets other greenlets run now and then.

    in_between: called at each such time, for what is due meanwhile.
    """

    def __init__(self, in_between: Callable[[], None] = lambda: None) -> None:
        self._in_between = in_between
        self._ends_at = time.monotonic() + SLICE_SECONDS

    def pause(self) -> None:
        """Pauses if the slice is over."""
        if time.monotonic() >= self._ends_at:
            time.sleep(0)  # With gevent's patches, this runs the other greenlets.
            self._in_between()
            self._ends_at = time.monotonic() + SLICE_SECONDS


class Checked:
    """What was found: the number of requests, the model of the first one, and the errors."""

    def __init__(self) -> None:
        self.total = 0
        self.model: str | None = None
        self.errors: list[BatchError] = []


def check(lines: Iterable[RawLine], endpoint: str, slices: Slices) -> Checked:
    """Checks the lines of an input file. Blank lines are left out, but they count for the line numbers."""
    found = Checked()
    first_with: dict[str, int] = {}
    for raw in lines:
        slices.pause()
        if raw.data == b"":
            continue
        found.total += 1
        if found.total > MAX_LINES:
            message = f"a batch may have at most {MAX_LINES} lines"
            found.errors.append(BatchError("too_many_lines", message, raw.number))
            break
        try:
            line = parse_line(raw, endpoint)
        except LineError as error:
            found.errors.append(error.error)
            custom_id = error.custom_id
        else:
            custom_id = line.custom_id
            if found.total == 1:
                found.model = line.model
        if custom_id:
            earlier = first_with.setdefault(custom_id, raw.number)
            if earlier != raw.number:
                message = f"the custom_id is that of line {earlier}"
                found.errors.append(BatchError("duplicate_custom_id", message, raw.number, "custom_id"))
        if len(found.errors) >= MAX_ERRORS:
            break
    if not found.total:
        found.errors.append(BatchError("empty_file", "the input file has no lines"))
    return found
