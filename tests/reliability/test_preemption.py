"""A running job of priority low gives its slot to another job, and its readers see only a pause."""

from __future__ import annotations

import signal
from pathlib import Path

from client import Client
from harness.product import running
from harness.waiting import eventually
from tasks import keys
from tasks.job import PREEMPTED, Status
from tasks.store import Store
from tests.integration.conftest import ECHO, StartWorkers, Submit
from tests.integration.jobs import assert_echoed, ended, started, words
from tests.reliability.followers import Followed, wait_until_seen

SLOTS = int(ECHO["MAX_NUM_SEQS"])


def test_readers_of_a_preempted_job_see_a_pause_and_nothing_else(tmp_path: Path) -> None:
    with running(tmp_path, MAX_NUM_SEQS="2") as web, Client(web.url) as client:
        lows = [Followed(client, web.url, words(f"low{i}", 250), priority="low") for i in range(3)]
        wait_until_seen(lows[:2], 5)
        for _ in range(3):
            normal = client.wait(client.submit("a b", max_tokens=2).id)
            assert (normal.status, normal.text) == ("completed", "a b")
            assert not any(low.job().is_ended for low in lows), "it did not wait for their ends"
        attempts = [attempt for low in lows for attempt in low.ended_whole().fields["attempts"]]
        assert [attempt["reason"] for attempt in attempts if attempt["reason"]] == [PREEMPTED] * 3


def test_a_preempted_job_continues_on_another_worker(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    prompts = [words(f"low{i}", 100) for i in range(SLOTS)]
    with start_echo_workers("w1"):
        lows = [submit(prompt, max_tokens=100, priority="low") for prompt in prompts]
        for job_id in lows:
            started(store, job_id, tokens=3)
        normal = submit(words("normal", 2000), max_tokens=2000)  # Longer than a start takes.
        [preempted] = eventually(lambda: [one for one in lows if store.get(one).is_waiting])
        with start_echo_workers("w2"):
            for job_id, prompt in zip(lows, prompts, strict=True):
                ended(store, job_id)
                assert_echoed(store, job_id, prompt)
            first, second = store.get(preempted).attempts
            assert (first.reason, first.worker, second.worker) == (PREEMPTED, "w1@test", "w2@test")
            assert not store.get(normal).is_ended
            store.cancel(normal)
            ended(store, normal)


def test_a_worker_that_dies_while_jobs_are_asked_for_their_slots_costs_no_job(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    """A stopped worker answers no request. Another one continues its jobs, and the request is forgotten."""
    prompts = {
        submit(prompt, max_tokens=60, priority="low"): prompt for prompt in (words("low", 60),) * SLOTS
    }
    with start_echo_workers("w1", ECHO_STEP_SECONDS="0.05") as (killed,):
        for job_id in prompts:
            started(store, job_id, tokens=3)
        killed.signal(signal.SIGSTOP)
        normal = submit("a b", n=SLOTS, max_tokens=2)
        assert store.redis.hlen(keys.PREFIX + "yielding:echo:echo") == SLOTS
        with start_echo_workers("w2"):
            killed.signal(signal.SIGKILL)
            killed.wait()
            assert ended(store, normal).status is Status.COMPLETED
            for job_id, prompt in prompts.items():
                ended(store, job_id)
                job = assert_echoed(store, job_id, prompt)
                assert [attempt.reason for attempt in job.attempts] == ["lease expired", None]
