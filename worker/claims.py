"""Claims the jobs that Celery brings, while slots are free."""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque

from redis.exceptions import RedisError

from tasks.connection import is_away
from tasks.errors import UnreadableRecordError
from tasks.job import JobError, Status
from tasks.leases import Claim, Leases, Outcome, Refusal, Write
from worker.held_jobs import HeldJob, HeldJobs, TaskHandle
from worker.job_run import JobRun
from worker.preparer import Preparer
from worker.watchdog import Activity

logger = logging.getLogger(__name__)


class Claims:
    """Claims the jobs of tasks, which wait for slots in order of arrival. For the flusher thread alone."""

    def __init__(
        self,
        leases: Leases,
        held: HeldJobs,
        preparer: Preparer,
        activity: Activity,
        *,
        worker: str,
        engine_pool: str,
    ) -> None:
        """worker, engine_pool: the names under which jobs are claimed. activity: the flusher thread's."""
        self._leases = leases
        self._held = held
        self._preparer = preparer
        self._activity = activity
        self._worker, self._engine_pool = worker, engine_pool
        self._waiting: deque[tuple[TaskHandle, str]] = deque()
        """Tasks with lease tokens. After a lost answer, the claim is repeated with the same lease token."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, task: TaskHandle) -> None:
        self._waiting.append((task, secrets.token_hex(8)))

    def refuse_all(self) -> None:
        """Refuses all tasks, because the worker stops."""
        while self._waiting:
            self._waiting.popleft()[0].ended(None)

    def claim_waiting(self, until: float) -> None:
        """Claims jobs, first come, first served. A job that has to wait for room holds back later ones.

        until: monotonic time at which held leases are to be renewed. At least one claim is made, whatever
            the time. Raises RedisError where Redis cannot be reached.
        """
        while self._waiting and (free_slots := self._held.claimable_slots):
            task, lease_token = self._waiting[0]
            claim = self._claim(task.job_id, lease_token, free_slots)
            if claim is Refusal.SETTLING or (claim is Refusal.BUSY and self._held):
                return
            self._waiting.popleft()
            if isinstance(claim, Claim):
                task.accepted()
                run = JobRun(claim)
                self._held.add(HeldJob(task, run))
                self._preparer.prepare(run)
            else:
                task.ended(None)
            if time.monotonic() >= until:
                return

    def _claim(self, job_id: str, lease_token: str, free_slots: int) -> Claim | Refusal | None:
        """Returns None where nobody can run the job, or Redis says that the call is wrong."""
        self._activity.moved_on()
        try:
            return self._leases.claim(
                job_id, lease_token, self._worker, self._engine_pool, free_slots, len(self._held)
            )
        except UnreadableRecordError as error:
            logger.error("%s: %s", job_id, error)
            outcome = Outcome(Status.FAILED, JobError(error.code, error.detail))
            write = Write(job_id, lease_token, base=0, prompt_tokens=0, outcome=outcome)
            self._leases.flush([write], renew=False)
        except RedisError as error:
            if is_away(error):
                raise
            logger.exception("%s could not be claimed", job_id)
        return None
