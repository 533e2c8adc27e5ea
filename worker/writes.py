"""Takes each step's outputs into its jobs, and writes what Redis lacks of all held jobs in one call."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from redis.exceptions import RedisError

from tasks.connection import is_away
from tasks.errors import first_line
from tasks.job import FinishReason, Status
from tasks.leases import Leases, Outcome, WriteAnswer, WriteStatus
from worker.engine.base import RequestOutput
from worker.engine_loop import EngineLoop
from worker.held_jobs import HeldJob, HeldJobs
from worker.job_run import JobRun
from worker.watchdog import Activity

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
    ) -> None:
        """worker, engine_pool: the names under which jobs were claimed. activity: the flusher thread's."""
        self._leases = leases
        self._held = held
        self._loop = loop
        self._activity = activity
        self._worker, self._engine_pool = worker, engine_pool
        self._unflushed_steps = 0

    def take_step(self, outputs: Sequence[RequestOutput]) -> int:
        """Takes a step's outputs into their jobs. Returns how many tokens of held jobs it brought."""
        self._unflushed_steps += 1
        return sum(self._take(output) for output in outputs)

    def are_due(self) -> bool:
        """Returns whether there is anything to write, except for renewals."""
        return self._unflushed_steps > 0 or any(job.run.has_news() for job in self._held)

    def flush(self) -> None:
        """Writes all jobs, whether a step brought them text or not: a cancel is to be seen within one step.

        Raises RedisError where Redis cannot be reached; then it may be repeated.
        """
        jobs = [*self._held]
        try:
            answers = self._leases.flush([job.run.next_write() for job in jobs])
        except RedisError as error:
            if is_away(error):
                raise
            self._flush_one_by_one(jobs)
        else:
            for job, answer in zip(jobs, answers, strict=True):
                self._apply_answer(job, answer)
        for _ in range(self._unflushed_steps):
            self._loop.step_flushed()
        self._unflushed_steps = 0

    def _take(self, output: RequestOutput) -> int:
        job = self._held.of_output(output)
        if job is None:
            return 0
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
        return len(output.token_ids)

    def _flush_one_by_one(self, jobs: Sequence[HeldJob]) -> None:
        """One of them, perhaps a damaged record, makes the script fail. It is dropped; others continue."""
        for job in jobs:
            self._activity.moved_on()
            try:
                [answer] = self._leases.flush([job.run.next_write()])
            except RedisError as error:
                if is_away(error):
                    raise
                logger.exception("%s cannot be written, dropping it", job.run.job_id)
                self._held.drop(job, None)
            else:
                self._apply_answer(job, answer)

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
            case WriteStatus.OK | WriteStatus.CANCEL | WriteStatus.TIMEOUT:
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
