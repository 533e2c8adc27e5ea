"""The preparer threads: they tokenize prompts, compile grammars and decode logs, which may take seconds.

Meanwhile the flusher renews leases and writes tokens. Jobs with `structured_outputs` have a thread of their
own, so that a grammar that is slow to compile delays no other job.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from tasks.errors import EngineError, UnreadableRecordError, first_line
from worker.engine.base import Engine
from worker.job_run import JobRun, Preparation
from worker.watchdog import Activity, Stillness

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The result for a job. preparation: None if it failed; then code and message say why."""

    run: JobRun
    preparation: Preparation | None
    code: str = ""
    message: str = ""


class Preparer:
    """Prepares jobs, on two threads, and passes each one to `deliver` on its thread."""

    def __init__(
        self, engine: Engine, deliver: Callable[[Prepared], None], longest_gap_seconds: float
    ) -> None:
        """longest_gap_seconds: between two calls of `stuck_for`, unless the process was paused."""
        self._plain = _PreparerThread("preparer", engine, deliver, longest_gap_seconds)
        self._structured = _PreparerThread("grammar preparer", engine, deliver, longest_gap_seconds)

    def start(self) -> None:
        self._plain.start()
        self._structured.start()

    def prepare(self, run: JobRun) -> None:
        is_plain = run.claim.request.structured_outputs is None
        (self._plain if is_plain else self._structured).prepare(run)

    def stuck_for(self, seconds: float) -> JobRun | None:
        """Returns a job that has been in preparation for longer than `seconds`. To be called regularly."""
        stuck = [self._plain.stuck_for(seconds), self._structured.stuck_for(seconds)]
        return stuck[0] or stuck[1]


class _PreparerThread:
    """Prepares jobs in the order of their claims."""

    def __init__(
        self, name: str, engine: Engine, deliver: Callable[[Prepared], None], longest_gap_seconds: float
    ) -> None:
        self._engine = engine
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[JobRun] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._activity = Activity()
        self._stillness = Stillness(lambda: self._activity.progress, longest_gap_seconds)
        self._current: JobRun | None = None
        """The job that is being prepared."""

    def start(self) -> None:
        self._thread.start()

    def prepare(self, run: JobRun) -> None:
        self._inbox.put(run)

    def stuck_for(self, seconds: float) -> JobRun | None:
        return self._current if self._stillness.look() > seconds else None

    def _run(self) -> None:
        while True:
            with self._activity.idle():
                run = self._inbox.get()
            self._current = run
            prepared = self._prepare(run)
            self._current = None
            self._deliver(prepared)

    def _prepare(self, run: JobRun) -> Prepared:
        try:
            return Prepared(run, run.prepare(self._engine))
        except (EngineError, UnreadableRecordError) as error:
            return Prepared(run, None, error.code, error.detail)
        except BaseException as error:  # Whatever a tokenizer raises concerns this prompt only.
            logger.exception("%s could not be prepared", run.job_id)
            return Prepared(
                run, None, "engine_error", f"the prompt could not be tokenized: {first_line(error)}"
            )
