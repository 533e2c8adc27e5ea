"""A Celery pool without a thread for each job, because the engine decodes all tasks in one batch.

A task from Celery becomes a handle for the flusher. When its job has ended, the task's body runs on Celery's
own thread, through Celery's tracer, and returns or raises the job's outcome.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated
from celery.concurrency.base import BasePool
from celery.exceptions import Ignore
from celery.worker import state as celery_state

from tasks.generate import outcomes
from tasks.job import Status
from tasks.leases import Outcome
from worker.delivery_probe import DeliveryProbe
from worker.flusher import Flusher

DRAIN_POLL_SECONDS = 0.1
"""How often a draining pool makes the calls that other threads have asked for."""

Callback = Callable[..., None]


class CeleryTaskHandle:
    """Celery's handle of a task in the pool. The flusher tells Celery through it what became of the task."""

    def __init__(
        self, pool: BatchPool, job_id: str, run_body: Callable[[], Any], callback: Callback, accept: Callback
    ) -> None:
        self._pool = pool
        self._job_id = job_id
        self._run_body = run_body
        self._callback = callback
        self._accept = accept
        self._accepted_at = time.monotonic()

    @property
    def job_id(self) -> str:
        return self._job_id

    def accepted(self) -> None:
        self._accepted_at = time.monotonic()
        self._pool.on_celery_thread(lambda: self._accept(os.getpid(), self._accepted_at))

    def ended(self, outcome: Outcome | None) -> None:
        self._pool.on_celery_thread(lambda: self._conclude(outcome))

    def terminate(self, signal: int) -> None:
        """Does nothing. Celery calls this on revoke, when `worker.app` has cancelled the job already."""

    def _conclude(self, outcome: Outcome | None) -> None:
        self._pool.forget(self)
        if outcome is None:
            # A late or duplicate message must not show STARTED and SUCCESS in place of the live run.
            self._callback((1, _exception_info(Ignore()), 0.0))
        elif outcome.status is Status.CANCELLED:
            self._callback((1, _exception_info(Terminated("cancelled")), 0.0))
        else:
            outcomes[self._job_id] = outcome
            seconds = time.monotonic() - self._accepted_at
            failed, result, _ = self._run_body()
            self._callback((failed, result, seconds))


class BatchPool(BasePool):
    """The pool that `app.conf.worker_pool` names. `serve` gives it its flusher."""

    signal_safe = False
    task_join_will_block = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tasks: set[CeleryTaskHandle] = set()
        """Keeps the tasks alive, as Celery has only weak references to them."""
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._hub: Any = None
        self._flusher: Flusher | None = None
        self.probe: DeliveryProbe | None = None
        self._drain_seconds = 0.0
        self._is_stopping = False

    def serve(self, flusher: Flusher, probe: DeliveryProbe, drain_seconds: float) -> None:
        """Serves tasks from now on: the model is loaded."""
        self._flusher = flusher
        self.probe = probe
        self._drain_seconds = drain_seconds

    def register_with_event_loop(self, loop: Any) -> None:
        """Called when Celery begins to consume, for the first time or again after it lost Redis."""
        if self._hub is None and self._flusher is not None:
            # Not earlier: jobs are offered to a worker once it has announced itself, and Celery takes
            # a second to look for other workers before it consumes.
            self._flusher.start()
        self._hub = loop
        loop.call_soon(self._run_calls)

    def on_apply(  # type: ignore[override]  # Celery's stub is vaguer than its calls.
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        _kwargs: dict[str, Any],
        callback: Callback,
        accept_callback: Callback,
        **_: Any,
    ) -> CeleryTaskHandle:
        if self._flusher is None:
            raise RuntimeError("a task came before the model was loaded")
        # args: name, uuid, request, body, content type, encoding. The task's id is the job's.
        task = CeleryTaskHandle(self, args[1], lambda: target(*args), callback, accept_callback)
        self._tasks.add(task)
        self._flusher.submit(task)
        return task

    def forget(self, task: CeleryTaskHandle) -> None:
        self._tasks.discard(task)

    def on_celery_thread(self, call: Callable[[], None]) -> None:
        """Runs `call` on Celery's own thread, which owns Celery's state. For any thread."""
        self._calls.put(call)
        if self._hub is not None:
            self._hub.call_soon(self._run_calls)

    def on_stop(self) -> None:
        """Drains for DRAIN_SECONDS. After SIGQUIT or a second signal, gives all jobs back at once."""
        hurry = self._is_stopping or celery_state.should_terminate
        self._is_stopping = True
        self._drain(0.0 if hurry else self._drain_seconds)

    def on_terminate(self) -> None:
        self._drain(0.0)

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Does nothing: all jobs live in this process."""

    def _drain(self, seconds: float) -> None:
        """Waits for the flusher to end. Celery's hub has stopped, so calls from other threads are made here.

        A signal handler may call this again meanwhile.
        """
        if self._flusher is None or self._hub is None:
            return  # The flusher was never started.
        self._flusher.drain(seconds)
        while self._flusher.is_alive():
            # Not a wait on the queue of calls: a signal handler may not enter its get() a second time.
            self._flusher.join(DRAIN_POLL_SECONDS)
            self._run_calls()
        self._run_calls()

    def _run_calls(self) -> None:
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            call()


def _exception_info(error: Exception) -> ExceptionInfo:
    try:
        raise error
    except type(error):
        return ExceptionInfo()
