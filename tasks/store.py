"""The jobs as clients see them: submit, read, list, cancel, retry, delete.

`tasks.leases` has the operations of workers.
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.answers import WorkerBody
from tasks.errors import ConflictError, JobNotFoundError
from tasks.job import Origin, Status
from tasks.reading import JobReader
from tasks.registry import Model, Readiness, known_models, live_workers, readiness
from tasks.request import JobRequest
from tasks.submission import Draft, Submission, accepted, hashed, submit


class Store(JobReader):
    """Reads and changes jobs. Every method may raise redis.exceptions.RedisError."""

    def submit(
        self,
        request: JobRequest,
        owner: str,
        idempotency_key: str | None = None,
        *,
        trusts_settings: bool = True,
    ) -> Submission:
        """Accepts a job. Once this returns, the job is stored in Redis and always reaches a final state.

        Raises InvalidRequestError (a model that no worker ever announced, or not with this engine; n beyond
        its slots), IdempotencyConflictError, QueueFullError, OverShareError, UnavailableError (nothing was
        accepted: Redis cannot be reached, or is nearly full) and OutcomeUnknownError (the answer was lost).

        trusts_settings: this process has the settings of the workers, so it accepts jobs for its own model
            and engine before a worker has announced them. Without it, it does so only if no worker has ever
            announced anything.
        """
        return self.submit_all([request], owner, idempotency_key, trusts_settings=trusts_settings)[0]

    def submit_all(
        self,
        requests: Sequence[JobRequest],
        owner: str,
        idempotency_key: str | None = None,
        *,
        origin: Origin | None = None,
        keep_seconds: float | None = None,
        trusts_settings: bool = True,
    ) -> list[Submission]:
        """Accepts all of the jobs or none. They name the same model and engine.

        A key leads back to all jobs of the earlier call. Raises what `submit` raises.

        origin, keep_seconds: of all of the jobs, see `Job`.
        """
        bodies = [accepted(request, self.scripts.settings) for request in requests]
        drafts = [Draft.of(body, origin, keep_seconds) for body in bodies]
        body_hash = hashed([*bodies, origin] if origin else bodies)
        return submit(
            self.scripts, drafts, body_hash, owner, idempotency_key, trusts_settings=trusts_settings
        )

    def retry(self, job_id: str, owner: str, idempotency_key: str | None = None) -> Submission:
        """Submits a new job with the request of an ended job that did not complete.

        Raises JobNotFoundError, ConflictError and what `submit` raises.
        """
        job = self.get(job_id, owner)
        if not job.is_ended or job.status is Status.COMPLETED:
            raise ConflictError(
                f"the job is {job.status}; only failed, cancelled and expired jobs are retried"
            )
        if job.is_request_truncated:
            code = job.error.code if job.error else job.status
            raise ConflictError(f"the job failed with {code}, so its whole request was not kept")
        draft = Draft(job.request, job.version, job.is_seed_drawn, job.origin, job.keep_seconds)
        return submit(self.scripts, [draft], hashed({"retry": job_id}), owner, idempotency_key)[0]

    def cancel(self, job_id: str, owner: str | None = None) -> None:
        """Ends a waiting job; tells the worker of a running one. Raises JobNotFoundError."""
        if self.scripts.call("cancel", id=job_id, owner=owner or "").status == "not_found":
            raise JobNotFoundError(f"there is no job {job_id}")

    def delete(self, job_id: str, owner: str) -> None:
        """Removes an ended job. Raises JobNotFoundError, and ConflictError while it has not ended."""
        answer = self.scripts.call("delete", id=job_id, owner=owner)
        if answer.status == "not_found":
            raise JobNotFoundError(f"there is no job {job_id}")
        if answer.status == "not_ended":
            raise ConflictError(f"the job is {answer['status']}; cancel it first")

    def workers(self) -> list[WorkerBody]:
        """Returns what the live workers announced last, in the contract's form."""
        return live_workers(self.redis)

    def readiness(self) -> Readiness:
        """Returns whether a job that is submitted now can start now, or why not."""
        return readiness(self.scripts)

    def models(self) -> list[Model]:
        """Returns every model that a worker ever announced, by name, with the workers that serve it now."""
        return known_models(self.redis)
