"""A worker notices when Celery delivers nothing to it any more, and only then."""

from __future__ import annotations

from pathlib import Path

from tasks.job import Job
from tasks.store import Store
from tests.integration.conftest import StartWorkers, Submit
from tests.waiting import eventually


def ended(store: Store, job_id: str) -> Job:
    eventually(lambda: store.get(job_id).is_ended)
    return store.get(job_id)


def test_a_worker_without_deliveries_gives_its_jobs_back_and_ends(
    start_echo_workers: StartWorkers, store: Store, submit: Submit, tmp_path: Path
) -> None:
    stall_when = tmp_path / "stall"
    variables = {"STEP_TIMEOUT_SECONDS": "2", "DRAIN_SECONDS": "1", "STALL_WHEN": str(stall_when)}
    with start_echo_workers("stalled", app="tests.integration.stalled_consumer", **variables) as (worker,):
        running = submit("a b", max_tokens=1500)
        eventually(lambda: store.get(running).completion_tokens)
        stall_when.touch()
        undelivered = [submit("c d", max_tokens=2), submit("e f", max_tokens=2)]
        eventually(lambda: [w["slots"] for w in store.workers()] == [0])
        assert worker.wait() == 1
        assert "Celery takes no messages any more, the worker drains and ends" in worker.output()
        assert store.workers() == []
    with start_echo_workers("other", ECHO_STEP_SECONDS="0"):
        assert [ended(store, job_id).output[0].text for job_id in undelivered] == ["c d", "e f"]
        continued = ended(store, running)
        assert [attempt.reason for attempt in continued.attempts] == ["drained", None]
        assert continued.output[0].text == " ".join(["a b"] * 750)


def test_a_full_worker_is_not_taken_for_one_without_deliveries(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    """A worker without a free slot takes no messages, its own included."""
    variables = {"STEP_TIMEOUT_SECONDS": "1", "MAX_NUM_SEQS": "1", "ECHO_STEP_SECONDS": "0.02"}
    with start_echo_workers("full", **variables) as (worker,):
        first, second = submit("a b", max_tokens=300), submit("c d", max_tokens=2)
        eventually(lambda: store.get(second).is_ended)
        assert len(store.get(first).attempts) == len(store.get(second).attempts) == 1
        assert worker.process.poll() is None
