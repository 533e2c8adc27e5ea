"""The engine thread: inbox -> step -> outbox. It owns the engine and waits for nothing but work."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

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
        self._step_began: float | None = None

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

    def step_seconds(self) -> float:
        """How long the step under way has been running; 0 between steps."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def _run(self) -> None:
        try:
            while self._take_orders():
                self._step()
        except Exception:
            # An engine that raised is in an unknown state, and its jobs are safe in Redis: end at once,
            # so that their leases run out and a whole worker takes them.
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
                    self._engine.add_request(order)
                case Abort(request_id):
                    self._engine.abort_request(request_id)
                case Stop():
                    return False

    def _step(self) -> None:
        self._unflushed.acquire()
        self._step_began = time.monotonic()
        outputs = self._engine.step()
        self._step_began = None
        self._deliver(outputs)
