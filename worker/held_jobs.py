"""The jobs that this worker holds the leases of, from the claim to whatever ends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tasks.leases import Outcome
from worker.choice_run import ChoiceRun
from worker.engine.base import RequestOutput
from worker.engine_loop import EngineLoop
from worker.job_run import JobRun, Preparation, lease_token_of


class TaskHandle(Protocol):
    """A Celery task that waits in the pool for its job's end. Its methods may be called on any thread."""

    @property
    def job_id(self) -> str: ...

    def accepted(self) -> None:
        """Called when the job was claimed."""

    def ended(self, outcome: Outcome | None) -> None:
        """Called when this worker has finished with the job. None: the job was refused or lost."""


@dataclass(frozen=True, slots=True)
class HeldJob:
    task: TaskHandle
    run: JobRun


class HeldJobs:
    """The jobs that are held, and the slots that they leave. For the flusher thread alone."""

    def __init__(self, loop: EngineLoop, max_num_seqs: int) -> None:
        self._loop = loop
        self._max_num_seqs = max_num_seqs
        self._jobs: dict[str, HeldJob] = {}
        """Lease token -> job. The same worker may get the same job again, under another lease token."""
        self._choices: dict[str, ChoiceRun] = {}
        """Request id -> choice, of all sequences that the engine got."""

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[HeldJob]:
        """Iterates over a copy, so that jobs may be dropped on the way."""
        return iter([*self._jobs.values()])

    def __contains__(self, run: JobRun) -> bool:
        return run.lease_token in self._jobs

    def of_output(self, output: RequestOutput) -> HeldJob | None:
        """Returns the job of an engine's output, or None where it left while the step was under way."""
        return self._jobs.get(lease_token_of(output.request_id))

    def choice_of(self, output: RequestOutput) -> ChoiceRun | None:
        """Returns the choice of an engine's output, as `of_output` does the job."""
        return self._choices.get(output.request_id)

    def add(self, job: HeldJob) -> None:
        self._jobs[job.run.lease_token] = job

    def begin(self, run: JobRun, preparation: Preparation) -> None:
        """Lets the engine run a job's choices."""
        for request in run.begin(preparation):
            self._choices[request.request_id] = run.choices[request.sampling.choice]
            self._loop.add_request(request)

    def drop(self, job: HeldJob, outcome: Outcome | None) -> None:
        """Frees the job's lease, sequences and task. Every way out leads here."""
        del self._jobs[job.run.lease_token]
        for request_id in job.run.engine_request_ids():
            self._choices.pop(request_id, None)
            self._loop.abort_request(request_id)
        job.task.ended(outcome)

    @property
    def used_slots(self) -> int:
        return sum(job.run.slots for job in self._jobs.values())

    @property
    def free_slots(self) -> int:
        return self._max_num_seqs - self.used_slots

    @property
    def claimable_slots(self) -> int:
        """The number of free slots; 0 if a job that has to run alone is held."""
        return 0 if any(job.run.claim.is_alone for job in self._jobs.values()) else self.free_slots
