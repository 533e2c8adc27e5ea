"""A worker's death is noticed at once by its lifeline, and nothing else is taken for a death.

Leases are longer than any test may take, so a job that continues did not wait for a lease to end.
"""

from __future__ import annotations

import signal

import pytest

from harness.proxy import Proxy
from harness.waiting import eventually
from tasks import keys
from tasks.store import Store
from tests.integration.conftest import ECHO, StartWorkers, Submit
from tests.integration.jobs import assert_echoed, ended, started, words

SLOTS = int(ECHO["MAX_NUM_SEQS"])
SLOW_STEPS = {"ECHO_STEP_SECONDS": "0.05", "LEASE_SECONDS": "600"}
LOOKS = 20
"""How often the reapers look at the lifelines. In this time they would give up a worker that seems dead."""


def has_been_looked_at(store: Store, looks: int) -> None:
    """Waits until the reapers have looked `looks` times."""
    before = float(str(store.redis.get(keys.PREFIX + "watched_at") or 0))
    eventually(lambda: float(str(store.redis.get(keys.PREFIX + "watched_at") or 0)) > before + 0.1 * looks)


def lifelines_seen(store: Store) -> int:
    return int(str(store.redis.scard(keys.PREFIX + "lifelines_seen")))


def test_jobs_of_a_killed_worker_go_on_long_before_their_leases_end(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    prompts = {submit(prompt, max_tokens=60): prompt for prompt in (words(f"j{i}", 60) for i in range(SLOTS))}
    with start_echo_workers("killed", **SLOW_STEPS) as (killed,):
        for job_id in prompts:
            started(store, job_id, tokens=3)
        with start_echo_workers("successor", **SLOW_STEPS):
            eventually(lambda: lifelines_seen(store) == 2)
            killed.signal(signal.SIGKILL)
            killed.wait()
            for job_id, prompt in prompts.items():
                ended(store, job_id)
                assert len(assert_echoed(store, job_id, prompt).attempts) == 2


def test_a_paused_worker_keeps_its_jobs(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    prompt = words("w", 60)
    with start_echo_workers("w1", "w2", **SLOW_STEPS) as workers:
        job_id = submit(prompt, max_tokens=60)
        job = started(store, job_id, tokens=3)
        eventually(lambda: lifelines_seen(store) == 2)
        [paused] = [worker for worker in workers if worker.id == job.attempts[0].worker]
        paused.signal(signal.SIGSTOP)
        has_been_looked_at(store, LOOKS)
        paused.signal(signal.SIGCONT)
        ended(store, job_id)
        assert len(assert_echoed(store, job_id, prompt).attempts) == 1


@pytest.mark.parametrize("of", ["lifelines", "all"])
def test_connections_that_break_cost_no_job(
    start_echo_workers: StartWorkers, store: Store, submit: Submit, redis_url: str, of: str
) -> None:
    prompts = [words(f"j{i}", 100) for i in range(SLOTS)]
    with (
        Proxy(redis_url) as network,
        start_echo_workers("w1", REDIS_URL=network.url, **SLOW_STEPS),
        start_echo_workers("w2", **SLOW_STEPS),
    ):
        jobs = [submit(prompt, max_tokens=100) for prompt in prompts]
        for job_id in jobs:
            started(store, job_id, tokens=3)
        eventually(lambda: lifelines_seen(store) == 2)
        for _ in range(5):
            if of == "all":
                network.cut()
            else:
                store.redis.client_kill_filter(_type="pubsub")
            has_been_looked_at(store, 3)
        for job_id, prompt in zip(jobs, prompts, strict=True):
            ended(store, job_id)
            assert len(assert_echoed(store, job_id, prompt).attempts) == 1
