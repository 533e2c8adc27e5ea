"""The flusher thread: owns Redis. Claims jobs while slots are free, writes each step in one call, renews."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from redis.exceptions import RedisError

from tasks.connection import LONGEST_CALL_SECONDS, is_away
from tasks.errors import EngineError, UnreadableRecordError, first_line
from tasks.job import FinishReason, JobError, Status
from tasks.leases import Claim, Leases, Outcome, Refusal, Write, WriteAnswer, WriteStatus
from tasks.settings import Settings
from worker.announcer import Announcer
from worker.ending import end_process
from worker.engine.base import Engine, RequestOutput
from worker.loop import EngineLoop
from worker.preparer import Prepared, Preparer
from worker.run import JobRun, lease_token_of
from worker.watchdog import Activity, Stillness, Watchdog, Watched

RETRY_PAUSE_SECONDS = 0.2
"""Between two calls to a Redis that is away, beyond what the client's own retries take."""

STOP_SECONDS = 5.0
"""How long a step may go on when nobody waits for it any more."""

logger = logging.getLogger(__name__)


class Ticket(Protocol):
    """A Celery task that waits in the pool for its job's end. Its methods may be called on any thread."""

    @property
    def job_id(self) -> str: ...

    def accepted(self) -> None:
        """The job was claimed."""

    def ended(self, outcome: Outcome | None) -> None:
        """This worker is done with the job; None where it was refused, fenced or released."""


class Hearing(Protocol):
    """Whether the tasks' carrier still brings any; see `worker.pulse`."""

    def beat(self) -> None: ...
    def heard(self) -> None: ...
    def is_lost(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Step:
    outputs: list[RequestOutput]


@dataclass(frozen=True, slots=True)
class Drain:
    deadline: float


News = Ticket | Step | Prepared | Drain


@dataclass(frozen=True, slots=True)
class Held:
    """A job that this worker holds the lease of."""

    ticket: Ticket
    run: JobRun


class Flusher:
    """See the module."""

    def __init__(
        self,
        engine: Engine,
        leases: Leases,
        settings: Settings,
        worker: str,
        hearing: Hearing,
        lifeline: str = "",
    ) -> None:
        """lifeline: the channel that tells others that this process has ended; empty for none."""
        self._engine = engine
        self._leases = leases
        self._hearing = hearing
        self._drain_seconds = settings.drain_seconds
        self._step_timeout_seconds = settings.step_timeout_seconds
        self._announcer = Announcer(engine, leases, settings, worker, lifeline)
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._loop = EngineLoop(engine, lambda outputs: self._news.put(Step(outputs)))
        self._preparer = Preparer(engine, self._news.put)
        self._preparer_stillness = Stillness(lambda: self._preparer.progress, settings.lease_seconds)
        self._activity = Activity()
        self._watchdog = self._made_watchdog()
        self._waiting: deque[tuple[Ticket, str]] = deque()
        """With the token to claim it under: the same when an answer was lost and the claim is made again."""
        self._held: dict[str, Held] = {}
        """By lease token."""
        self._unflushed_steps = 0
        self._drain_deadline: float | None = None
        self._must_end_process = False
        self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)

    # --- from other threads

    def start(self) -> None:
        self._loop.start()
        self._preparer.start()
        self._thread.start()
        self._watchdog.start()

    def submit(self, ticket: Ticket) -> None:
        """Claim the ticket's job as soon as slots are free."""
        self._news.put(ticket)

    def drain(self, seconds: float) -> None:
        """Claim nothing more, run on for so long, then give back what is left and end. Again: the sooner."""
        self._news.put(Drain(time.monotonic() + seconds))

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Wait `timeout` seconds at most for the thread to end."""
        self._thread.join(timeout)

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._is_drained():
                self._take_news(self._patience())
                self._guard(self._turn)
            self._guard(self._release_rest)
            self._stop_engine()
            if self._must_end_process:
                end_process("the worker has drained and ends, to be started again")
            self._watchdog.stop()
        except BaseException:  # noqa: BLE001  # SystemExit too: it would end this thread only.
            end_process("the flusher failed, the worker ends", exc_info=True)

    def _turn(self) -> None:
        is_due = time.monotonic() >= self._announcer.due_at
        if is_due or self._has_writes():
            self._flush()
        if is_due:
            self._check_engine()
            self._watch_preparer()
            self._watch_hearing()
            slots = 0 if self._is_draining() else self._engine.max_num_seqs
            self._announcer.beat(slots, self._engine.max_num_seqs - self._free_slots())
        self._claim_waiting()

    def _guard(self, work: Callable[[], None]) -> None:
        """Everything here may be done again, so a Redis that is away costs time and nothing else."""
        self._activity.moved_on()
        try:
            work()
        except RedisError as error:
            if is_away(error):
                logger.warning("Redis is away, trying again: %s", error)
            else:
                logger.exception("Redis refused a call, trying again")
            self._check_engine()
            time.sleep(RETRY_PAUSE_SECONDS)

    def _patience(self) -> float:
        """Seconds until something is to be done without news."""
        if self._has_writes():
            return 0.0
        wake_at = min(self._announcer.due_at, self._drain_deadline or self._announcer.due_at)
        return max(0.0, wake_at - time.monotonic())

    def _take_news(self, patience: float) -> None:
        """Wait for news, then take all there are: the steps that Redis was too slow for become one."""
        try:
            self._digest(self._wait_for_news(patience))
            while True:
                self._digest(self._news.get_nowait())
        except queue.Empty:
            return

    def _wait_for_news(self, patience: float) -> News:
        if not patience:
            return self._news.get_nowait()
        with self._activity.idle():
            return self._news.get(timeout=patience)

    def _digest(self, news: News) -> None:
        match news:
            case Step(outputs):
                self._unflushed_steps += 1
                for output in outputs:
                    self._push(output)
            case Prepared():
                self._start(news)
            case Drain(deadline):
                self._drain_deadline = min(deadline, self._drain_deadline or deadline)
                self._announcer.due_at = 0.0
                while self._waiting:
                    self._waiting.popleft()[0].ended(None)
            case _ if self._is_draining():
                news.ended(None)
            case _:
                self._waiting.append((news, secrets.token_hex(8)))

    def _push(self, output: RequestOutput) -> None:
        held = self._held.get(lease_token_of(output.request_id))
        if held is None:
            return  # The job left while the step was under way.
        self._announcer.count(len(output.token_ids))
        try:
            is_over = held.run.push(output)
        except Exception as error:  # Whatever a tokenizer raises concerns this job only.
            logger.exception("the output of %s could not be decoded", held.run.job_id)
            held.run.break_off(f"the output could not be decoded: {first_line(error)}")
            for request_id in held.run.engine_request_ids():
                self._loop.abort_request(request_id)
            return
        if is_over:
            self._loop.abort_request(output.request_id)

    # --- claims

    def _claim_waiting(self) -> None:
        """First come, first served. A job that has to wait for room holds back those behind it.

        Ends, with one claim at least, when what is held is to be renewed.
        """
        while self._waiting and (free_slots := self._claimable_slots()):
            ticket, lease_token = self._waiting[0]
            claim = self._claim(ticket.job_id, lease_token, free_slots)
            if claim is Refusal.SETTLING or (claim is Refusal.BUSY and self._held):
                return
            self._waiting.popleft()
            if isinstance(claim, Claim):
                ticket.accepted()
                run = JobRun(claim)
                self._held[lease_token] = Held(ticket, run)
                self._preparer.prepare(run)
            else:
                ticket.ended(None)
            if time.monotonic() >= self._announcer.due_at:
                return

    def _claim(self, job_id: str, lease_token: str, free_slots: int) -> Claim | Refusal | None:
        """None where the job cannot be run by anybody, or Redis says that the call is wrong."""
        worker, engine_pool = self._announcer.worker, self._announcer.engine_pool
        self._activity.moved_on()
        try:
            return self._leases.claim(job_id, lease_token, worker, engine_pool, free_slots, len(self._held))
        except UnreadableRecordError as error:
            logger.error("%s: %s", job_id, error)
            outcome = Outcome(Status.FAILED, JobError(error.code, error.detail))
            self._leases.flush([Write(job_id, lease_token, base=0, prompt_tokens=0, outcome=outcome)])
        except RedisError as error:
            if is_away(error):
                raise
            logger.exception("%s could not be claimed", job_id)
        return None

    def _start(self, prepared: Prepared) -> None:
        run = prepared.run
        if run.lease_token not in self._held:
            return  # The job left while it was prepared.
        if prepared.preparation is None:
            run.fail(prepared.code, prepared.message, FinishReason.ERROR)
            return
        for request in run.begin(prepared.preparation):
            self._loop.add_request(request)

    def _claimable_slots(self) -> int:
        return 0 if any(held.run.claim.is_alone for held in self._held.values()) else self._free_slots()

    def _free_slots(self) -> int:
        return self._engine.max_num_seqs - sum(held.run.slots for held in self._held.values())

    # --- writes

    def _has_writes(self) -> bool:
        return self._unflushed_steps > 0 or any(held.run.has_news() for held in self._held.values())

    def _flush(self) -> None:
        """All jobs, whether a step brought them text or not: a cancel is to be seen within one step."""
        held = [*self._held.values()]
        try:
            answers = self._leases.flush([h.run.next_write() for h in held])
        except RedisError as error:
            if is_away(error):
                raise
            self._flush_one_by_one(held)
        else:
            for one, answer in zip(held, answers, strict=True):
                self._heed(one, answer)
        for _ in range(self._unflushed_steps):
            self._loop.step_flushed()
        self._unflushed_steps = 0

    def _flush_one_by_one(self, held: Sequence[Held]) -> None:
        """One of them, perhaps a damaged record, lets the script fail. It is left alone, the others go on."""
        for one in held:
            self._activity.moved_on()
            try:
                [answer] = self._leases.flush([one.run.next_write()])
            except RedisError as error:
                if is_away(error):
                    raise
                logger.exception("%s cannot be written, dropping it", one.run.job_id)
                self._drop(one, None)
            else:
                self._heed(one, answer)

    def _heed(self, held: Held, answer: WriteAnswer) -> None:
        run = held.run
        match answer.status:
            case WriteStatus.ENDED:
                self._drop(held, run.outcome)
            case WriteStatus.FENCED if self._take_back(run, answer.log_length):
                logger.warning("Redis forgot that %s is this worker's, going on with it", run.job_id)
            case WriteStatus.FENCED:
                logger.warning("%s is no longer this worker's, dropping it", run.job_id)
                self._drop(held, None)
            case WriteStatus.BEHIND:
                logger.warning("Redis lost entries of %s, sending them again", run.job_id)
                run.flushed_up_to(answer.log_length)
            case WriteStatus.CANCEL if run.can_be_cut_off:
                run.flushed_up_to(answer.log_length)
                run.cut_off(FinishReason.CANCELLED, Outcome(Status.CANCELLED))
            case WriteStatus.TIMEOUT if run.can_be_cut_off:
                run.flushed_up_to(answer.log_length)
                run.fail("timeout", "the job ran longer than its timeout", FinishReason.TIMEOUT)
            case WriteStatus.OK | WriteStatus.CANCEL | WriteStatus.TIMEOUT:
                run.flushed_up_to(answer.log_length)

    def _take_back(self, run: JobRun, log_length: int) -> bool:
        """Redis came back as it was before the claim, and only this worker can repeat what readers have seen.

        A log only shrinks in this way: no job that moved on is taken for one.
        """
        claim_length = len(run.claim.log)
        worker, engine_pool = self._announcer.worker, self._announcer.engine_pool
        if log_length >= claim_length or not self._leases.take_back(run.claim, worker, engine_pool):
            return False
        run.flushed_up_to(claim_length)
        return True

    def _drop(self, held: Held, outcome: Outcome | None) -> None:
        """Every way out leads here: lease, sequences and ticket are free."""
        del self._held[held.run.lease_token]
        for request_id in held.run.engine_request_ids():
            self._loop.abort_request(request_id)
        held.ticket.ended(outcome)

    # --- the end

    def _is_draining(self) -> bool:
        return self._drain_deadline is not None

    def _is_drained(self) -> bool:
        if self._drain_deadline is None:
            return False
        return not self._held or time.monotonic() >= self._drain_deadline

    def _release_rest(self) -> None:
        held = [*self._held.values()]
        for one in held:
            self._drop(one, None)
        self._announcer.deregister()
        self._leases.release([(one.run.job_id, one.run.lease_token) for one in held], "drained")

    def _watch_hearing(self) -> None:
        """Tasks come through Celery. When none can come any more, somebody has to start this worker again."""
        if self._is_draining():
            return
        if len(self._held) + len(self._waiting) >= self._engine.max_num_seqs:
            self._hearing.heard()  # A full worker takes no messages.
        elif self._hearing.is_lost():
            logger.critical("Celery takes no messages any more, the worker drains and ends")
            self._must_end_process = True
            self._drain_deadline = time.monotonic() + self._drain_seconds
        else:
            self._hearing.beat()

    def _watch_preparer(self) -> None:
        """A prompt fails where its tokenizer or template hangs. Only a new process is rid of that thread."""
        run, seconds = self._preparer.current, self._step_timeout_seconds
        if self._preparer_stillness.look() <= seconds or run is None or run.lease_token not in self._held:
            return
        logger.critical(
            "preparing %s takes longer than STEP_TIMEOUT_SECONDS=%g, the worker ends", run.job_id, seconds
        )
        reason = f"the prompt could not be prepared within {seconds:g} s"
        run.fail("engine_error", reason, FinishReason.ERROR)
        self._flush()
        self._must_end_process = True
        self._drain_deadline = time.monotonic()

    def _check_engine(self) -> None:
        try:
            self._engine.check_health()
        except EngineError as error:
            end_process("%s; the worker ends", error)

    def _stop_engine(self) -> None:
        """The jobs are given back by now, so an engine that hangs or is slow holds up nobody."""
        if not self._loop.stop(STOP_SECONDS):
            end_process("a step of the engine did not end within %s s, the worker ends", STOP_SECONDS)
        self._engine.shutdown()

    def _made_watchdog(self) -> Watchdog:
        """Of the engine's thread and this one, which waits for Redis too."""
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
