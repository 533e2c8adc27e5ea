"""The engine thread: it takes orders, runs a step and delivers its outputs, over and over.

It owns the engine, and waits only where there is nothing to decode or Redis is far behind.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from tasks.errors import EngineError
from tasks.job import FinishReason
from worker.ending import end_process
from worker.engine.base import Engine, EngineRequest, RequestOutput
from worker.watchdog import Activity

MAX_UNFLUSHED_STEPS = 64
"""Backpressure: decoding pauses when Redis is this many steps behind, which are a few seconds at most."""


@dataclass(frozen=True, slots=True)
class Abort:
    request_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Order = EngineRequest | Abort | Stop


class EngineLoop:
    """Runs the engine in a thread of its own: all that the flusher knows of a running engine.

    `deliver` gets each step's outputs, on the engine's thread.
    """

    def __init__(self, engine: Engine, deliver: Callable[[list[RequestOutput]], None]) -> None:
        self._engine = engine
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._unflushed = threading.Semaphore(MAX_UNFLUSHED_STEPS)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._activity = Activity()

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Ends the thread after the step under way, and the engine's processes.

        Returns False where the step takes more than `seconds`.
        """
        self._inbox.put(Stop())
        self._unflushed.release()
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        self._engine.shutdown()
        return True

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def add_request(self, request: EngineRequest) -> None:
        """Lets a sequence join before the next step."""
        self._inbox.put(request)

    def abort_request(self, request_id: str) -> None:
        """Lets a sequence leave before the next step."""
        self._inbox.put(Abort(request_id))

    def step_flushed(self) -> None:
        """Lets the engine run one step further ahead: a step that it delivered is in Redis."""
        self._unflushed.release()

    def progress(self) -> tuple[int, int] | None:
        """A value that changes whenever the engine moves on, within a step too; None while it is idle.

        For any thread.
        """
        calls = self._activity.progress
        return None if calls is None else (calls, self._engine.progress())

    def check_health(self) -> None:
        """For any thread. Raises EngineError where the engine has died, even in the middle of a step."""
        self._engine.check_health()

    def _run(self) -> None:
        try:
            while self._take_orders():
                self._step()
        except EngineError as error:
            end_process("%s; the worker ends", error)
        except BaseException:  # noqa: BLE001  # SystemExit too: it would end this thread only.
            # An engine that raised is in an unknown state, and its jobs are safe in Redis. The process ends
            # at once, so that another worker takes them.
            end_process("the engine failed, the worker ends", exc_info=True)

    def _take_orders(self) -> bool:
        """Carries out the orders that have come, and waits for one while there is nothing to decode.

        Returns False where the thread is to stop.
        """
        while True:
            try:
                order = self._next_order(block=not self._engine.has_unfinished_requests())
            except queue.Empty:
                return True
            match order:
                case EngineRequest():
                    self._add(order)
                case Abort(request_id):
                    self._engine.abort_request(request_id)
                case Stop():
                    return False

    def _next_order(self, *, block: bool) -> Order:
        with self._activity.idle():
            return self._inbox.get(block=block)

    def _add(self, request: EngineRequest) -> None:
        try:
            self._engine.add_request(request)
        except MemoryError:
            reason = "memory did not suffice to add this sequence"
            failure = RequestOutput(request.request_id, (), FinishReason.ERROR, reason)
            self._wait_for_flusher()
            self._deliver([failure])

    def _step(self) -> None:
        self._wait_for_flusher()
        self._deliver(self._engine.step())

    def _wait_for_flusher(self) -> None:
        """Waits while Redis is too many steps behind."""
        with self._activity.idle():
            self._unflushed.acquire()
