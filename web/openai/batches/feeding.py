"""Makes jobs of the next lines of a batch, several lines in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.batch import Batch, FedLine, Span
from tasks.batches import LONGEST_FILE_BYTES, Batches
from tasks.errors import (
    FieldError,
    InvalidRequestError,
    ModelNotFoundError,
    OverShareError,
    QueueFullError,
    TokenrelayError,
    UnavailableError,
    UnknownModelError,
)
from tasks.settings import Settings
from tasks.submission import Draft, accepted
from web.openai.batches.checks import Slices
from web.openai.batches.endpoints import refusal_of
from web.openai.batches.lines import Line, LineError, RawLine, answered, parse_line

LINES_PER_CALL = 32
JOBS_PER_CALL = 128
"""The most jobs of one call, if no line has more: they hold Redis for some 10 ms."""

BYTES_PER_CALL = 1024 * 1024
"""The most bytes of one call's lines, if none has more."""

Taken = tuple[RawLine, FedLine]


class NoRoomError(Exception):
    """The queue or Redis' memory has no room for a line at present."""


class MovedError(Exception):
    """Another process has taken these lines, or the batch takes no more jobs."""


class BatchFaultError(Exception):
    """The batch cannot go on. code: `damaged` or `output_too_long`."""

    def __init__(self, message: str, code: str = "damaged") -> None:
        super().__init__(message)
        self.code = code


class Feeding:
    """One turn of a process at the lines that a batch has not taken yet."""

    def __init__(self, batches: Batches, settings: Settings, batch: Batch) -> None:
        self._batches = batches
        self._settings = settings
        self._batch = batch
        self._offset = batch.offset
        self._pending: list[Taken] = []

    def take(self, lines: Iterable[RawLine], room: int) -> None:
        """Takes up to `room` lines. Raises NoRoomError, MovedError and BatchFaultError."""
        slices, last = Slices(), None
        for raw in lines:
            slices.pause()
            last = raw
            if raw.data == b"":
                continue
            self._add(raw)
            room -= 1
            if not room:
                break
        self._store_pending()
        if last and last.end > self._offset:  # Blank lines at the end.
            self._skip(last, [])

    def _add(self, raw: RawLine) -> None:
        try:
            line = parse_line(raw, self._batch.endpoint)
        except LineError as error:
            # It passed the validation, perhaps of another release.
            refused = InvalidRequestError([FieldError(error.error.param or "", error.error.message)])
            self._refuse(raw, error.custom_id, refused)
            return
        if len(line.requests) > self._batches.most_queued:
            message = (
                f"are more than {self._batches.most_queued}, which is what a batch may have in the queue"
            )
            self._refuse(raw, line.custom_id, InvalidRequestError([FieldError("prompt", message)]))
            return
        fed = FedLine(raw.number, line.custom_id, self._drafts(raw, line))
        if self._pending and not self._fits(raw, fed):
            self._store_pending()
        self._pending.append((raw, fed))

    def _drafts(self, raw: RawLine, line: Line) -> list[Draft]:
        origin = {**line.origin, "batch": self._batch.id, "line": raw.number, "custom_id": line.custom_id}
        return [Draft.of(accepted(request, self._settings), origin) for request in line.requests]

    def _fits(self, raw: RawLine, fed: FedLine) -> bool:
        """Returns whether a line may be stored in one call with those that are pending."""
        lines = [line for _, line in self._pending]
        jobs = sum(len(line.drafts) for line in lines) + len(fed.drafts)
        is_short = raw.end - self._offset <= BYTES_PER_CALL and jobs <= JOBS_PER_CALL
        same_model = fed.drafts[0].request["model"] == lines[0].drafts[0].request["model"]
        return same_model and is_short and len(lines) < LINES_PER_CALL

    def _store_pending(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            self._store(pending)

    def _store(self, taken: Sequence[Taken]) -> None:
        """Stores the jobs of lines: of half of them, if not all can be stored, and so on."""
        last = taken[-1][0]
        try:
            span = Span(self._offset, last.end, last.number)
            status = self._batches.feed(self._batch, span, [line for _, line in taken])
        except (QueueFullError, OverShareError, UnavailableError) as error:
            if len(taken) == 1:
                raise NoRoomError(error.detail) from None
        except InvalidRequestError as error:
            if len(taken) == 1:
                self._refuse(last, taken[0][1].custom_id, error)
                return
        else:
            if status != "fed":
                raise MovedError
            self._offset = last.end
            return
        half = len(taken) // 2
        self._store(taken[:half])
        self._store(taken[half:])

    def _refuse(self, raw: RawLine, custom_id: str, error: InvalidRequestError) -> None:
        self._store_pending()
        shown: TokenrelayError = error
        if isinstance(error, UnknownModelError):
            shown = ModelNotFoundError(error.errors[0].message)
        status, body = refusal_of(self._batch.endpoint, shown)
        self._skip(raw, [answered(self._batch.id, raw.number, custom_id, status, "", body)])

    def _skip(self, last: RawLine, texts: Sequence[str]) -> None:
        check_written(self._batches.skip(self._batch, Span(self._offset, last.end, last.number), texts))
        self._offset = last.end


def check_written(status: str) -> None:
    """Raises MovedError or BatchFaultError unless a script wrote answers."""
    if status == "damaged":
        raise BatchFaultError("the output file or the error file is missing or damaged")
    if status == "too_long":
        message = f"its output file or its error file would be longer than {LONGEST_FILE_BYTES} bytes"
        raise BatchFaultError(message, "output_too_long")
    if status not in ("answered", "skipped"):
        raise MovedError
