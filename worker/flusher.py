"""The flusher: the thread that owns Redis. It claims jobs, starts them, writes each step and renews leases.

`Claims` decides which jobs to take, `Writes` what to write; this module says when, and when the worker ends.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from redis.exceptions import RedisError

from tasks.connection import LONGEST_CALL_SECONDS, is_away
from tasks.errors import EngineError
from tasks.job import FinishReason
from tasks.leases import Leases
from tasks.settings import Settings
from worker.announcer import Announcer
from worker.claims import Claims
from worker.ending import end_process
from worker.engine.base import Engine, RequestOutput
from worker.engine_loop import EngineLoop
from worker.held_jobs import HeldJobs, TaskHandle
from worker.preparer import Prepared, Preparer
from worker.watchdog import Activity, Watchdog, Watched
from worker.writes import Writes

RETRY_PAUSE_SECONDS = 0.2
"""The pause between two calls to a Redis that cannot be reached, in addition to the client's own retries."""

STOP_SECONDS = 5.0
"""How long the engine's last step may take after all jobs were given back."""

logger = logging.getLogger(__name__)


class DeliveryMonitor(Protocol):
    """Checks whether Celery still delivers messages; see `worker.delivery_probe`."""

    def send_probe(self) -> None: ...
    def received(self) -> None: ...
    def forget_probes(self) -> None: ...
    def is_overdue(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Step:
    outputs: list[RequestOutput]


@dataclass(frozen=True, slots=True)
class Drain:
    deadline: float


FlusherEvent = TaskHandle | Step | Prepared | Drain


class Flusher:
    """The thread and its life cycle, see the module."""

    def __init__(
        self,
        engine: Engine,
        leases: Leases,
        settings: Settings,
        worker: str,
        delivery: DeliveryMonitor,
        lifeline: str = "",
    ) -> None:
        """lifeline: the channel that tells others that this process has ended; empty for none."""
        self._max_num_seqs = engine.max_num_seqs
        self._leases = leases
        self._delivery = delivery
        self._drain_seconds = settings.drain_seconds
        self._step_timeout_seconds = settings.step_timeout_seconds
        self._announcer = Announcer(engine, leases, settings, worker, lifeline)
        self._events: queue.SimpleQueue[FlusherEvent] = queue.SimpleQueue()
        self._loop = EngineLoop(engine, lambda outputs: self._events.put(Step(outputs)))
        self._preparer = Preparer(engine, self._events.put, settings.lease_seconds)
        self._activity = Activity()
        names = {"worker": worker, "engine_pool": self._announcer.engine_pool}
        self._held = HeldJobs(self._loop, engine.max_num_seqs)
        self._claims = Claims(leases, self._held, self._preparer, self._activity, **names)
        self._writes = Writes(
            leases, self._held, self._loop, self._activity, **names, lease_seconds=settings.lease_seconds
        )
        self._watchdog = self._made_watchdog()
        self._drain_deadline: float | None = None
        self._must_end_process = False
        self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)

    # --- from other threads

    def start(self) -> None:
        self._loop.start()
        self._preparer.start()
        self._thread.start()
        self._watchdog.start()

    def submit(self, task: TaskHandle) -> None:
        """Claims the task's job as soon as slots are free."""
        self._events.put(task)

    def drain(self, seconds: float) -> None:
        """Claims nothing more, lets jobs run on for so long, then gives back what is left and ends.

        A second call may shorten the time.
        """
        self._events.put(Drain(time.monotonic() + seconds))

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Waits `timeout` seconds at most for the thread to end."""
        self._thread.join(timeout)

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._is_drained():
                self._take_events()
                self._retried_later(self._turn)
            self._retried_later(self._release_rest)
            self._stop_engine()
            if self._must_end_process:
                end_process("the worker has drained and ends, to be started again")
            self._watchdog.stop()
        except BaseException:  # noqa: BLE001  # SystemExit too: it would end this thread only.
            end_process("the flusher failed, the worker ends", exc_info=True)

    def _turn(self) -> None:
        is_due = time.monotonic() >= self._announcer.due_at
        if is_due or self._writes.due_in == 0.0:
            self._writes.flush()
        if is_due:
            self._check_engine()
            self._watch_preparer()
            for call in (self._watch_delivery, self._beat):
                call()
                if self._writes.is_renewal_due:
                    self._writes.flush()  # Redis is slow, and what follows will take its time too.
        self._claims.claim_waiting(until=self._announcer.due_at)

    def _beat(self) -> None:
        slots = 0 if self._is_draining() else self._max_num_seqs
        self._announcer.beat(slots, self._held.used_slots)

    def _retried_later(self, work: Callable[[], None]) -> None:
        """Does work that may be repeated, so that a Redis that cannot be reached costs nothing but time."""
        self._activity.moved_on()
        try:
            work()
        except RedisError as error:
            if is_away(error):
                logger.warning("Redis cannot be reached, trying again: %s", error)
                self._delivery.forget_probes()
            else:
                logger.exception("Redis refused a call, trying again")
            self._check_engine()
            time.sleep(RETRY_PAUSE_SECONDS)

    def _wait_seconds(self) -> float:
        """Returns how long to wait for an event, until there is something to do without one."""
        wake_at = min(self._announcer.due_at, self._drain_deadline or self._announcer.due_at)
        return max(0.0, wake_at - time.monotonic())

    def _take_events(self) -> None:
        """Waits until there is something to do, then takes all events."""
        flush_in = self._writes.due_in
        try:
            if flush_in is None:
                self._handle_event(self._next_event(self._wait_seconds()))
            elif flush_in:
                # Waking up for each step would take the interpreter away from the engine's thread.
                with self._activity.idle():
                    time.sleep(min(flush_in, self._wait_seconds()))
            while True:
                self._handle_event(self._events.get_nowait())
        except queue.Empty:
            return

    def _next_event(self, wait_seconds: float) -> FlusherEvent:
        if not wait_seconds:
            return self._events.get_nowait()
        with self._activity.idle():
            return self._events.get(timeout=wait_seconds)

    def _handle_event(self, event: FlusherEvent) -> None:
        match event:
            case Step(outputs):
                self._announcer.count(self._writes.take_step(outputs))
            case Prepared():
                self._begin(event)
            case Drain(deadline):
                self._drain_deadline = min(deadline, self._drain_deadline or deadline)
                self._announcer.due_at = 0.0
                self._claims.refuse_all()
            case _ if self._is_draining():
                event.ended(None)
            case _:
                self._claims.add(event)

    def _begin(self, prepared: Prepared) -> None:
        run = prepared.run
        if run not in self._held:
            return  # The job left while it was prepared.
        if prepared.preparation is None:
            run.fail(prepared.code, prepared.message, FinishReason.ERROR)
        else:
            self._held.begin(run, prepared.preparation)
        if run.outcome:
            self._writes.request_flush()

    # --- what may end the worker

    def _watch_delivery(self) -> None:
        """Ends the worker if Celery delivers no more tasks, so that it is restarted."""
        if self._is_draining():
            return
        if len(self._held) + len(self._claims) >= self._max_num_seqs:
            self._delivery.received()  # A full worker takes no messages.
        elif self._delivery.is_overdue():
            logger.critical("Celery takes no messages any more, the worker drains and ends")
            self._must_end_process = True
            self._drain_deadline = time.monotonic() + self._drain_seconds
        else:
            self._delivery.send_probe()

    def _watch_preparer(self) -> None:
        """Fails a prompt whose tokenizer or template hangs, and ends the worker: only so the thread ends."""
        seconds = self._step_timeout_seconds
        run = self._preparer.stuck_for(seconds)
        if run is None or run not in self._held:
            return
        logger.critical(
            "preparing %s takes longer than STEP_TIMEOUT_SECONDS=%g, the worker ends", run.job_id, seconds
        )
        reason = f"the prompt could not be prepared within {seconds:g} s"
        run.fail("engine_error", reason, FinishReason.ERROR)
        self._writes.flush()
        self._must_end_process = True
        self._drain_deadline = time.monotonic()

    def _check_engine(self) -> None:
        try:
            self._loop.check_health()
        except EngineError as error:
            end_process("%s; the worker ends", error)

    def _made_watchdog(self) -> Watchdog:
        """Returns a watchdog for the engine thread and this one. This one may also wait for Redis."""
        timeout_seconds = self._step_timeout_seconds
        limit = f"STEP_TIMEOUT_SECONDS={timeout_seconds:g}"
        engine = Watched("engine thread", self._loop.progress, timeout_seconds, limit, self._is_engine_alive)
        flusher = Watched(
            "flusher thread",
            lambda: self._activity.progress,
            timeout_seconds + LONGEST_CALL_SECONDS,
            f"{limit} and {LONGEST_CALL_SECONDS:g} s for Redis",
            self.is_alive,
        )
        return Watchdog([engine, flusher])

    def _is_engine_alive(self) -> bool:
        return self._loop.is_alive() or self._is_drained()

    # --- the end

    def _is_draining(self) -> bool:
        return self._drain_deadline is not None

    def _is_drained(self) -> bool:
        if self._drain_deadline is None:
            return False
        return not self._held or time.monotonic() >= self._drain_deadline

    def _release_rest(self) -> None:
        jobs = [*self._held]
        for job in jobs:
            self._held.drop(job, None)
        self._announcer.deregister()
        self._leases.release([(job.run.job_id, job.run.lease_token) for job in jobs], "drained")

    def _stop_engine(self) -> None:
        """Stops the engine. All jobs were given back, so an engine that hangs or is slow delays no job."""
        if not self._loop.stop(STOP_SECONDS):
            end_process("a step of the engine did not end within %s s, the worker ends", STOP_SECONDS)
