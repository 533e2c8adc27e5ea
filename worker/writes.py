"""Takes each step's outputs into its jobs, and writes what Redis lacks of all held jobs in one call."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from redis.exceptions import RedisError

from tasks.connection import is_away
from tasks.errors import first_line
from tasks.job import PREEMPTED, FinishReason, Status
from tasks.leases import Leases, Outcome, Write, WriteAnswer, WriteStatus
from worker.engine.base import RequestOutput
from worker.engine_loop import EngineLoop
from worker.held_jobs import HeldJob, HeldJobs
from worker.job_run import MAX_ENTRIES_PER_WRITE, JobRun
from worker.watchdog import Activity

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.005, 0.015
"""The least time from one flush to the next one. Readers do not notice it, and where a model makes several
tokens meanwhile, they share a call of Redis. It is longer where flushes take long."""

RENEWALS_PER_LEASE = 6
"""More than heartbeats, so that each flush of a heartbeat renews, and others too if Redis is slow."""

FLUSHING_SHARE = 0.1
"""The share of the time that flushes may take before they become less frequent, down to the longest pause."""

logger = logging.getLogger(__name__)


class Writes:
    """Writes an engine's outputs to Redis, and handles Redis' answers. For the flusher thread alone."""

    def __init__(
        self,
        leases: Leases,
        held: HeldJobs,
        loop: EngineLoop,
        activity: Activity,
        *,
        worker: str,
        engine_pool: str,
        lease_seconds: float,
    ) -> None:
        """worker, engine_pool: the names under which jobs were claimed. activity: the flusher thread's."""
        self._leases = leases
        self._held = held
        self._loop = loop
        self._activity = activity
        self._worker, self._engine_pool = worker, engine_pool
        self._unflushed_steps = 0
        self._is_requested = False
        self._renewal_seconds = lease_seconds / RENEWALS_PER_LEASE
        self._renew_at = 0.0
        self._paused_until = 0.0
        """The monotonic time before which nothing is flushed unless it has to be."""

    def take_step(self, outputs: Sequence[RequestOutput]) -> int:
        """Takes a step's outputs into their jobs. Returns how many tokens of held jobs it brought."""
        self._unflushed_steps += 1
        tokens = 0
        for output in outputs:
            choice = self._held.choice_of(output)
            if choice is not None:
                tokens += len(output.token_ids)
                if not choice.push_whole(output):
                    self._take(output)
        return tokens

    def request_flush(self) -> None:
        """Asks for a flush although no step may follow."""
        self._is_requested = True

    @property
    def due_in(self) -> float | None:
        """Seconds until the next flush is due; None while there is nothing to write, except for renewals."""
        if not (self._unflushed_steps or self._is_requested):
            return None
        return max(0.0, self._paused_until - time.monotonic())

    @property
    def is_renewal_due(self) -> bool:
        return bool(len(self._held)) and time.monotonic() >= self._renew_at

    def flush(self) -> None:
        """Writes all jobs, whether a step brought them text or not: a cancel is to be seen within one flush.

        From time to time it renews their leases too. Raises RedisError where Redis cannot be reached; then it
        may be repeated.
        """
        began = time.monotonic()
        renew = began >= self._renew_at
        self._paused_until = began + SHORTEST_PAUSE_SECONDS
        jobs = [*self._held]
        writes = [job.run.next_write() for job in jobs]
        try:
            answers = self._leases.flush(writes, renew=renew)
        except RedisError as error:
            if is_away(error):
                raise
            answers = self._flush_one_by_one(jobs, writes, renew=renew)
        has_more = False
        preempted: list[HeldJob] = []
        for index, (job, write) in enumerate(zip(jobs, writes, strict=True)):
            answer = answers.get(index)
            if answer is None:
                job.run.flushed_up_to(write.base + len(write.entries))
                has_more |= len(write.entries) == MAX_ENTRIES_PER_WRITE
            else:
                self._apply_answer(job, answer)
                has_news = job.run in self._held and job.run.has_news()
                has_more |= has_news
                if answer.status is WriteStatus.PREEMPT and not has_news:
                    preempted.append(job)
        self._is_requested = has_more
        if renew:
            self._renew_at = began + self._renewal_seconds
        for _ in range(self._unflushed_steps):
            self._loop.step_flushed()
        self._unflushed_steps = 0
        pause = (time.monotonic() - began) / FLUSHING_SHARE
        self._paused_until = began + min(max(SHORTEST_PAUSE_SECONDS, pause), LONGEST_PAUSE_SECONDS)
        self._release_preempted(preempted)

    def _release_preempted(self, jobs: Sequence[HeldJob]) -> None:
        """Gives jobs back whose logs are complete: in one call, because a wide job may wait for all of them.

        They are dropped after that: if Redis cannot be reached, the next flush brings the request again.
        """
        self._leases.release([(job.run.job_id, job.run.lease_token) for job in jobs], PREEMPTED)
        for job in jobs:
            logger.info("%s gave its slots to a job of higher priority", job.run.job_id)
            self._held.drop(job, None)

    def _take(self, output: RequestOutput) -> None:
        job = self._held.of_output(output)
        if job is None:
            return
        try:
            is_over = job.run.push(output)
        except Exception as error:  # Whatever a tokenizer raises concerns this job only.
            logger.exception("the output of %s could not be decoded", job.run.job_id)
            job.run.break_off(f"the output could not be decoded: {first_line(error)}")
            for request_id in job.run.engine_request_ids():
                self._loop.abort_request(request_id)
        else:
            if is_over:
                self._loop.abort_request(output.request_id)

    def _flush_one_by_one(
        self, jobs: Sequence[HeldJob], writes: Sequence[Write], *, renew: bool
    ) -> dict[int, WriteAnswer]:
        """One of them, perhaps a damaged record, makes the script fail. It is dropped; others continue."""
        answers: dict[int, WriteAnswer] = {}
        for index, (job, write) in enumerate(zip(jobs, writes, strict=True)):
            self._activity.moved_on()
            try:
                found = self._leases.flush([write], renew=renew)
            except RedisError as error:
                if is_away(error):
                    raise
                logger.exception("%s cannot be written, dropping it", job.run.job_id)
                self._held.drop(job, None)
            else:
                if found:
                    answers[index] = found[0]
        return answers

    def _apply_answer(self, job: HeldJob, answer: WriteAnswer) -> None:
        run = job.run
        match answer.status:
            case WriteStatus.ENDED:
                self._held.drop(job, run.outcome)
            case WriteStatus.FENCED if self._take_back(run, answer.log_length):
                logger.warning("Redis forgot that %s is this worker's, going on with it", run.job_id)
            case WriteStatus.FENCED:
                logger.warning("%s is no longer this worker's, dropping it", run.job_id)
                self._held.drop(job, None)
            case WriteStatus.BEHIND:
                logger.warning("Redis lost entries of %s, sending them again", run.job_id)
                run.flushed_up_to(answer.log_length)
            case WriteStatus.CANCEL if run.can_be_cut_off:
                run.flushed_up_to(answer.log_length)
                run.cut_off(FinishReason.CANCELLED, Outcome(Status.CANCELLED))
            case WriteStatus.TIMEOUT if run.can_be_cut_off:
                run.flushed_up_to(answer.log_length)
                run.fail("timeout", "the job ran longer than its timeout", FinishReason.TIMEOUT)
            case WriteStatus.CANCEL | WriteStatus.TIMEOUT | WriteStatus.PREEMPT:
                run.flushed_up_to(answer.log_length)

    def _take_back(self, run: JobRun, log_length: int) -> bool:
        """Redis came back as it was before the claim, and only this worker can repeat what readers have seen.

        A log only shrinks in this way, so a job that another worker has claimed is never taken back.
        """
        claim_length = len(run.claim.log)
        if log_length >= claim_length or not self._leases.take_back(
            run.claim, self._worker, self._engine_pool
        ):
            return False
        run.flushed_up_to(claim_length)
        return True
