"""The engine thread: inbox -> step -> outbox. It owns the engine and waits for nothing but work."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from tasks.errors import EngineError
from tasks.job import FinishReason
from worker.engine.base import Engine, EngineRequest, RequestOutput

MAX_UNFLUSHED_STEPS = 64
"""Decoding pauses when Redis is this many steps behind: seconds at most, and little memory."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Abort:
    request_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Order = EngineRequest | Abort | Stop


class EngineLoop:
    """Runs the engine in a thread of its own. `deliver` gets each step's outputs, on that thread."""

    def __init__(self, engine: Engine, deliver: Callable[[list[RequestOutput]], None]) -> None:
        self._engine = engine
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._unflushed = threading.Semaphore(MAX_UNFLUSHED_STEPS)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._steps = 0
        self._is_stepping = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread behind the step under way."""
        self._inbox.put(Stop())
        self._unflushed.release()
        self._thread.join()

    def add_request(self, request: EngineRequest) -> None:
        """Let the sequence join before the next step."""
        self._inbox.put(request)

    def abort_request(self, request_id: str) -> None:
        """Let the sequence leave before the next step."""
        self._inbox.put(Abort(request_id))

    def step_flushed(self) -> None:
        """A delivered step is in Redis: the engine may run further ahead."""
        self._unflushed.release()

    @property
    def step_number(self) -> int | None:
        """Which step is under way; None between steps."""
        return self._steps if self._is_stepping else None

    def _run(self) -> None:
        try:
            while self._take_orders():
                self._step()
        except Exception as error:
            # An engine that raised is in an unknown state, and its jobs are safe in Redis: end at once,
            # so that their leases run out and a whole worker takes them.
            if isinstance(error, EngineError):
                logger.critical("%s; the worker ends", error)
            else:
                logger.critical("the engine failed, the worker ends", exc_info=True)
            logging.shutdown()
            os._exit(1)

    def _take_orders(self) -> bool:
        """Carry out what has come in, waiting for it while there is nothing to decode. False: stop."""
        while True:
            try:
                order = self._inbox.get(block=not self._engine.has_unfinished_requests())
            except queue.Empty:
                return True
            match order:
                case EngineRequest():
                    self._add(order)
                case Abort(request_id):
                    self._engine.abort_request(request_id)
                case Stop():
                    return False

    def _add(self, request: EngineRequest) -> None:
        try:
            self._engine.add_request(request)
        except MemoryError:
            reason = "memory did not suffice to add this sequence"
            failure = RequestOutput(request.request_id, (), FinishReason.ERROR, reason)
            self._unflushed.acquire()
            self._deliver([failure])

    def _step(self) -> None:
        self._unflushed.acquire()
        self._steps += 1
        self._is_stepping = True
        outputs = self._engine.step()
        self._is_stepping = False
        self._deliver(outputs)
