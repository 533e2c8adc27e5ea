"""A worker notices when Celery stops delivering messages to it, and raises no false alarm."""

from __future__ import annotations

from pathlib import Path

from harness.redis_server import free_port, start_redis
from harness.waiting import eventually
from tasks.app import JobApp
from tasks.job import Job
from tasks.settings import Settings
from tasks.store import Store
from tests.integration.conftest import StartWorkers, Submit
from worker.delivery_probe import DeliveryProbe


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
    """A worker without a free slot receives no messages, not even its own probes."""
    variables = {"STEP_TIMEOUT_SECONDS": "1", "MAX_NUM_SEQS": "1", "ECHO_STEP_SECONDS": "0.02"}
    with start_echo_workers("full", **variables) as (worker,):
        first, second = submit("a b", max_tokens=300), submit("c d", max_tokens=2)
        eventually(lambda: store.get(second).is_ended)
        assert len(store.get(first).attempts) == len(store.get(second).attempts) == 1
        assert worker.process.poll() is None


def test_the_time_while_redis_cannot_be_reached_does_not_count(tmp_path: Path) -> None:
    now = 0.0
    port = free_port()
    redis, url = start_redis(tmp_path, port=port)
    try:
        probe = DeliveryProbe(JobApp(Settings(redis_url=url)), "worker@test", 10, lambda: now)
        probe.send_probe()
        redis.kill()
        redis.wait()
        now = 9.0
        probe.send_probe()
        redis, _ = start_redis(tmp_path, port=port)
        for seconds in (9.5, 10.0, 10.5, 11.0):
            now = seconds
            probe.send_probe()
        assert not probe.is_overdue()
        now = 19.4
        assert not probe.is_overdue()
        now = 21.1
        assert probe.is_overdue()
        probe.forget_probes()
        assert not probe.is_overdue()
    finally:
        redis.kill()
        redis.wait()


def test_a_consumer_that_loses_redis_while_it_starts_tries_again(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    with start_echo_workers("failing", app="tests.integration.failing_start") as (worker,):
        assert "Connection closed by server." in worker.output()
        assert "mingle" not in worker.output()
        assert ended(store, submit("a b", max_tokens=2)).output[0].text == "a b"
