"""What moves a batch on: it is validated, its lines become jobs, and their answers are written.

Each step may stop anywhere, because its process dies, and any web process may do it again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from tasks.batch import Batch, BatchError, BatchStatus, LineAnswer, OpenLine, Span
from tasks.batches import TURN_SECONDS, Batches
from tasks.errors import FileDamagedError, JobNotFoundError, NoSuchFileError
from tasks.files import Files
from tasks.job import Job, Status
from tasks.store import Store
from web.openai.batches.checks import Slices, check
from web.openai.batches.endpoints import answer_of
from web.openai.batches.feeding import (
    BYTES_PER_CALL,
    BatchFaultError,
    Feeding,
    MovedError,
    NoRoomError,
    check_written,
)
from web.openai.batches.lines import RawLine, answered, custom_id_of, not_answered, split_lines

POLL_SECONDS, BUSY_SECONDS = 0.2, 0.05
"""The time between two looks at the jobs of a batch, and the time after a look that found answers. Short jobs
end often, and slots should not wait for their next lines."""

FULL_SECONDS = 1.0
"""The pause after the queue or Redis' memory had no room for a line."""

LINES_PER_READ = 32
"""How many lines' jobs are read in one call."""

ANSWERS_PER_CALL = 64
"""The most answers in one call. Each removes the jobs of its line."""

SKIPPED_PER_CALL, SKIPPED_PER_TURN = 500, 5_000
"""How many lines of a batch that was cancelled are answered in a call and in a turn."""

CLOSED = {
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request was done"),
    "expired": ("batch_expired", "the completion window of the batch was over before this request was done"),
}
"""Outcome of a batch -> code and message of the lines that were not done."""

JOB_LOST = (
    "job_lost",
    "a job of this line was deleted, damaged or kept no longer before its result was read",
)

logger = logging.getLogger(__name__)


class Steps:
    """The steps of batches. Methods may raise redis.exceptions.RedisError."""

    def __init__(self, store: Store, batches: Batches, files: Files) -> None:
        self._store = store
        self._batches = batches
        self._files = files
        self._settings = store.scripts.settings

    def move_on(self, batch: Batch) -> float:
        """Does what can be done for a batch now, and sets its next turn. Returns the seconds until then."""
        try:
            pause = self._move_on(batch)
        except MovedError:
            pause = POLL_SECONDS
        except NoRoomError as reason:
            logger.info("%s waits: %s", batch.id, reason)
            pause = FULL_SECONDS
        except (BatchFaultError, FileDamagedError, NoSuchFileError) as error:
            logger.error("%s cannot go on: %s", batch.id, error)
            code = error.code if isinstance(error, BatchFaultError) else "damaged"
            self._batches.close(batch.id, "failed", [BatchError(code, str(error))])
            pause = 0.0
        self._batches.rest(batch.id, pause)
        return pause

    def _move_on(self, batch: Batch) -> float:
        """Returns the seconds until the next turn."""
        if batch.outcome == "failed":
            return self._fail(batch)
        if batch.outcome is None and batch.status is BatchStatus.VALIDATING:
            return self._validate(batch)
        if batch.output_file_id is None:
            return self._end(batch)  # It was closed during its validation.
        lines = self._batches.open_lines(batch.id)
        open_lines = self._write_answers(batch, lines)
        if batch.outcome is not None:
            self._cancel(open_lines)
            self._skip_rest(batch)
            return POLL_SECONDS if open_lines else self._end(batch)
        if batch.has_taken_all and not open_lines:
            self._batches.close(batch.id, "completed")
            return 0.0
        room = self._settings.batch_window - len(open_lines)
        if room > 0 and not batch.has_taken_all:
            Feeding(self._batches, self._settings, batch).take(self._lines_left(batch), room)
        return BUSY_SECONDS if len(open_lines) < len(lines) else POLL_SECONDS

    def _validate(self, batch: Batch) -> float:
        renew_at = time.monotonic() + TURN_SECONDS / 4

        def renew() -> None:
            nonlocal renew_at
            if time.monotonic() >= renew_at:
                self._batches.rest(batch.id, TURN_SECONDS)
                renew_at = time.monotonic() + TURN_SECONDS / 4

        found = check(self._lines_left(batch), batch.endpoint, Slices(renew))
        self._batches.start(batch.id, found.total, found.model or self._settings.model, found.errors)
        return 0.0

    def _lines_left(self, batch: Batch) -> Iterator[RawLine]:
        """Yields the lines of the input file that were not taken yet."""
        file = self._files.get(batch.input_file_id)
        return split_lines(self._files.pieces(file, batch.offset), batch.offset, batch.next_line)

    def _write_answers(self, batch: Batch, lines: Sequence[OpenLine]) -> list[OpenLine]:
        """Writes the answers of the lines whose jobs have ended. Returns the others."""
        for answers in _grouped(self._answers(batch, [line for line in lines if line.is_ended])):
            check_written(self._batches.answer(batch.id, answers))
        return [line for line in lines if not line.is_ended]

    def _answers(self, batch: Batch, lines: Sequence[OpenLine]) -> Iterator[LineAnswer]:
        for start in range(0, len(lines), LINES_PER_READ):
            part = lines[start : start + LINES_PER_READ]
            jobs = self._jobs(part)
            for line in part:
                yield self._answer(batch, line, [jobs[each] for each in line.job_ids if each in jobs])

    def _answer(self, batch: Batch, line: OpenLine, jobs: Sequence[Job]) -> LineAnswer:
        """Returns the answer to a line. jobs: those that could be read."""
        if len(jobs) < len(line.job_ids):
            return LineAnswer(line, not_answered(batch.id, line.number, line.custom_id, *JOB_LOST), True)
        if batch.outcome in CLOSED and any(job.status is Status.CANCELLED for job in jobs):
            reason = CLOSED[batch.outcome]
            return LineAnswer(line, not_answered(batch.id, line.number, line.custom_id, *reason), True)
        status, body = answer_of(batch.endpoint, jobs)
        return LineAnswer(
            line,
            answered(batch.id, line.number, line.custom_id, status, jobs[0].id, body),
            status != 200,
            sum(job.prompt_tokens for job in jobs),
            sum(job.completion_tokens for job in jobs),
        )

    def _jobs(self, lines: Sequence[OpenLine]) -> dict[str, Job]:
        """Returns the jobs of lines by id, without those that are gone or whose records are damaged."""
        job_ids = [job_id for line in lines for job_id in line.job_ids]
        try:
            return {job.id: job for part in self._store.read(job_ids) for job in part}
        except (KeyError, ValueError) as error:
            if len(lines) > 1:
                return {job_id: job for line in lines for job_id, job in self._jobs([line]).items()}
            logger.error("a record of %s is damaged: %r", ", ".join(job_ids), error)
            return {}

    def _cancel(self, lines: Sequence[OpenLine]) -> None:
        slices = Slices()
        for line in lines:
            for job_id in line.job_ids:
                with suppress(JobNotFoundError):  # It is answered as lost.
                    self._store.cancel(job_id)
            slices.pause()

    def _skip_rest(self, batch: Batch) -> None:
        """Answers lines that a closed batch has not taken."""
        if batch.outcome not in CLOSED or batch.has_taken_all:
            return
        slices, start = Slices(), batch.offset
        lines = islice(self._lines_left(batch), SKIPPED_PER_TURN)
        while part := list(islice(lines, SKIPPED_PER_CALL)):
            texts = []
            for raw in part:
                slices.pause()
                if raw.data != b"":
                    reason = CLOSED[batch.outcome]
                    texts.append(not_answered(batch.id, raw.number, custom_id_of(raw), *reason))
            last = part[-1]
            check_written(self._batches.skip(batch, Span(start, last.end, last.number), texts))
            start = last.end

    def _end(self, batch: Batch) -> float:
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                self._files.move_to_disk(file_id)
        answer = self._batches.end(batch.id)
        if answer.status == "incomplete":
            raise BatchFaultError(
                f"only {answer['counted']} of {answer['total']} lines have answers, and none is left to do"
            )
        return 0.0 if answer.status == "ended" else POLL_SECONDS

    def _fail(self, batch: Batch) -> float:
        """Ends a batch with the answers that it has."""
        self._cancel(self._batches.open_lines(batch.id))
        try:
            return self._end(batch)
        except FileDamagedError as error:
            logger.error("%s ends without all of its answers: %s", batch.id, error)
            self._batches.end(batch.id)
            return 0.0


def _grouped(answers: Iterable[LineAnswer]) -> Iterator[list[LineAnswer]]:
    """Yields the answers in groups that are small enough for one call each."""
    slices = Slices()
    group: list[LineAnswer] = []
    size = 0
    for answer in answers:
        slices.pause()
        if group and (len(group) >= ANSWERS_PER_CALL or size + len(answer.text) > BYTES_PER_CALL):
            yield group
            group, size = [], 0
        group.append(answer)
        size += len(answer.text)
    if group:
        yield group
