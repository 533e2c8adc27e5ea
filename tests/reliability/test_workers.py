"""Workers that are paused, cut off, killed or told to stop: each job ends once, with its whole text."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.proxy import Proxy
from harness.waiting import eventually
from harness.workers import WorkerProcess, start_workers
from tasks import keys
from tasks.app import JobApp
from tasks.job import Attempt, JobError, Status
from tasks.request import parse_request
from tasks.settings import ANONYMOUS, Settings
from tasks.store import Store
from tests.integration.conftest import ECHO, StartWorkers, Submit
from tests.integration.jobs import assert_echoed, ended, started, words

SLOTS = int(ECHO["MAX_NUM_SEQS"])
SLOW_STEPS = {"ECHO_STEP_SECONDS": "0.05"}
"""So slow that the second attempt still runs when the first one's worker comes back."""


def holder(workers: list[WorkerProcess], attempt: Attempt) -> WorkerProcess:
    return next(worker for worker in workers if worker.id == attempt.worker)


def on_its_second_worker(store: Store, job_id: str) -> bool:
    """Returns whether the job's second attempt has written tokens."""
    job = store.get(job_id)
    return len(job.attempts) == 2 and store.redis.hget(keys.job(job_id), "progress") == "1"


def assert_works_again(store: Store, submit: Submit, worker: WorkerProcess, workers: int) -> None:
    """Submits more jobs than the other workers have slots, and checks that the worker runs some of them."""
    prompts = [words(f"more{i}", 60) for i in range(workers * SLOTS)]
    jobs = [submit(prompt, max_tokens=60) for prompt in prompts]
    for job_id, prompt in zip(jobs, prompts, strict=True):
        ended(store, job_id)
        assert_echoed(store, job_id, prompt)
    assert worker.id in {attempt.worker for job_id in jobs for attempt in store.get(job_id).attempts}
    assert worker.process.poll() is None


def test_a_worker_that_was_paused_writes_nothing_into_a_job_that_moved_on(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    prompt = words("w", 120)
    with start_echo_workers("w1", "w2", **SLOW_STEPS) as workers:
        job_id = submit(prompt, max_tokens=120)
        paused = holder(workers, started(store, job_id, tokens=5).attempts[0])
        paused.signal(signal.SIGSTOP)
        eventually(lambda: on_its_second_worker(store, job_id))
        paused.signal(signal.SIGCONT)
        eventually(lambda: f"{job_id} is no longer this worker's, dropping it" in paused.output())
        assert_works_again(store, submit, paused, len(workers))
        ended(store, job_id)
        assert len(assert_echoed(store, job_id, prompt).attempts) == 2


@pytest.mark.parametrize("until", ["the other one writes", "it says so"])
def test_a_worker_that_was_cut_off_writes_nothing_into_a_job_that_moved_on(
    start_echo_workers: StartWorkers, store: Store, submit: Submit, redis_url: str, until: str
) -> None:
    """Redis gets late what it sent during the partition."""
    prompt = words("w", 120)
    with ExitStack() as stack:
        networks, workers = [], []
        for name in ("w1", "w2"):
            networks.append(stack.enter_context(Proxy(redis_url)))
            through_it = start_echo_workers(name, REDIS_URL=networks[-1].url, **SLOW_STEPS)
            workers += stack.enter_context(through_it)
        job_id = submit(prompt, max_tokens=120)
        cut_off = holder(workers, started(store, job_id, tokens=5).attempts[0])
        network = networks[workers.index(cut_off)]
        network.blackhole()
        eventually(lambda: on_its_second_worker(store, job_id))
        if until == "it says so":
            eventually(lambda: "Redis cannot be reached" in cut_off.output(), timeout=60)
        network.heal()
        eventually(lambda: f"{job_id} is no longer this worker's, dropping it" in cut_off.output())
        assert_works_again(store, submit, cut_off, len(workers))
        ended(store, job_id)
        assert len(assert_echoed(store, job_id, prompt).attempts) == 2


def test_a_pause_is_not_taken_for_an_engine_that_hangs(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    """The pause is longer than a step may take. The step without the pause is not."""
    timeout_seconds = 6 * float(ECHO["LEASE_SECONDS"])
    busy = {"app": "tests.reliability.busy", "STEP_TIMEOUT_SECONDS": str(timeout_seconds)}
    with start_echo_workers("w1", **busy) as (worker,):
        job_id = submit("a b c", max_tokens=3)
        started(store, job_id)
        last_beat = store.redis.zscore(keys.alive("echo:echo"), worker.id)
        eventually(lambda: store.redis.zscore(keys.alive("echo:echo"), worker.id) != last_beat)
        worker.signal(signal.SIGSTOP)
        time.sleep(1.2 * timeout_seconds)  # The pause.
        worker.signal(signal.SIGCONT)
        ended(store, job_id)
        assert_echoed(store, job_id, "a b c")
        assert worker.process.poll() is None


@pytest.mark.parametrize("how", ["hangs", "exits"])
@pytest.mark.parametrize("thread", ["engine", "flusher"])
def test_a_thread_that_hangs_or_ends_takes_the_process_with_it(
    start_echo_workers: StartWorkers, store: Store, submit: Submit, thread: str, how: str
) -> None:
    """Otherwise the process would stay, do nothing, and nobody would restart it."""
    stuck = {"app": "tests.reliability.stuck", "STEP_TIMEOUT_SECONDS": "1"}
    prompt = f"{thread} {how} here"
    with start_echo_workers("w1", **stuck) as (worker,):
        job_id = submit(prompt, max_tokens=3)
        assert worker.wait() == 1
        said = {
            "hangs": f"the {thread} thread stood still for longer than STEP_TIMEOUT_SECONDS=1",
            "exits": f"the {thread} failed, the worker ends",
        }
        assert said[how] in worker.output()
    with start_echo_workers("w2"):
        ended(store, job_id)
        assert_echoed(store, job_id, prompt)


def test_a_drain_does_not_wait_for_an_engine_that_hangs(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    hangs = {"ECHO_STEP_SECONDS": "3600", "STEP_TIMEOUT_SECONDS": "3600", "DRAIN_SECONDS": "0.2"}
    with start_echo_workers("w1", **hangs) as (worker,):
        job_id = submit("a b", max_tokens=2)
        eventually(lambda: store.get(job_id).attempts)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 1
        assert "a step of the engine did not end within 5.0 s, the worker ends" in worker.output()
    with start_echo_workers("w2"):
        ended(store, job_id)
        assert [attempt.reason for attempt in assert_echoed(store, job_id, "a b").attempts] == [
            "drained",
            None,
        ]


def test_a_long_step_costs_no_lease(start_echo_workers: StartWorkers, store: Store, submit: Submit) -> None:
    """Leases are renewed during a long prefill or a compilation, too."""
    lease = float(ECHO["LEASE_SECONDS"])
    step = 3.5 * lease
    with start_echo_workers("w1", "w2", ECHO_STEP_SECONDS=str(step), STEP_TIMEOUT_SECONDS="60"):
        job_id = submit("a b", max_tokens=2)
        job = ended(store, job_id)
        assert len(job.attempts) == 1
        assert (job.ended_at or 0) - (job.started_at or 0) > 3 * lease, "a step outlasted its leases"
        assert_echoed(store, job_id, "a b")


@pytest.mark.parametrize(
    ("slow", "prompt", "max_tokens"),
    [("tokens", "Once upon a time, there was a fox. " * 80, 3), ("layers", "Once", 2)],
)
def test_a_slow_model_is_not_taken_for_one_that_hangs(
    redis_url: str, tmp_path: Path, slow: str, prompt: str, max_tokens: int
) -> None:
    """A prompt that is too long for one step is split into chunks. In a long pass, each layer is progress."""
    environment = {
        "REDIS_URL": redis_url,
        "MAX_NUM_SEQS": "4",
        "LEASE_SECONDS": "1",
        "STEP_TIMEOUT_SECONDS": "2",
        "NATIVE_ISA": "none",
        "SLOW": slow,
    }
    with JobApp(Settings(redis_url=redis_url, max_num_seqs=4)) as app:
        store = Store(app.scripts())
        body = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
        jobs = [store.submit(parse_request(body), ANONYMOUS).job_id for _ in range(4)]
        slow_app = "tests.reliability.slow"
        with start_workers("w1", folder=tmp_path, app=slow_app, **environment) as (worker,):
            eventually(
                lambda: worker.process.poll() is not None or all(store.get(j).is_ended for j in jobs),
                timeout=60,
            )
            assert worker.process.poll() is None, worker.output()
        for job in map(store.get, jobs):
            assert (job.status, job.completion_tokens, len(job.attempts)) == ("completed", max_tokens, 1)


def test_a_job_that_kills_its_workers_is_poison_and_costs_its_companions_only_time(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    prompts = [words(f"c{i}", 40) for i in range(SLOTS - 1)]
    companions = [submit(prompt, max_tokens=40) for prompt in prompts]
    crashing = submit("crash prompt", max_tokens=4)
    deaths = 0

    def all_ended() -> bool:
        return all(store.get(job_id).is_ended for job_id in [crashing, *companions])

    while not all_ended():
        with start_echo_workers(f"w{deaths}", app="tests.reliability.crashing") as (worker,):
            eventually(lambda process=worker.process: process.poll() is not None or all_ended())  # type: ignore[misc]
            deaths += worker.process.poll() == -signal.SIGKILL
    killer = store.get(crashing)
    assert (killer.status, killer.error and killer.error.code) == (Status.FAILED, "poison")
    assert [attempt.reason for attempt in killer.attempts] == ["lease expired"] * 4
    assert killer.completion_tokens == 0
    assert deaths == 4
    for job_id, prompt in zip(companions, prompts, strict=True):
        assert_echoed(store, job_id, prompt)


def test_a_rolling_restart_loses_nothing_and_waits_for_no_lease(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    prompts: dict[str, str] = {}

    def add_load() -> None:
        for _ in range(3 * SLOTS):
            prompt = words(f"r{len(prompts)}", 120)
            prompts[submit(prompt, max_tokens=120)] = prompt

    def has_much_to_do(worker: WorkerProcess) -> bool:
        running = [job for job in map(store.get, prompts) if job.attempts and not job.is_ended]
        return any(job.attempts[-1].worker == worker.id and job.completion_tokens < 60 for job in running)

    with ExitStack() as stack:

        def start(name: str) -> WorkerProcess:
            [worker] = stack.enter_context(start_echo_workers(name, DRAIN_SECONDS="0.2"))
            return worker

        fleet = [start(f"old{i}") for i in range(3)]
        for number, worker in enumerate(fleet):
            add_load()
            eventually(lambda worker=worker: has_much_to_do(worker))  # type: ignore[misc]
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0
            start(f"new{number}")
        jobs = [ended(store, job_id, timeout=60) for job_id in prompts]
    for job_id, prompt in prompts.items():
        assert_echoed(store, job_id, prompt)
    reasons = [attempt.reason for job in jobs for attempt in job.attempts]
    assert set(reasons) == {None, "drained"}
    assert reasons.count(None) == len(jobs)
    assert {attempt.worker for job in jobs for attempt in job.attempts if attempt.reason} == {
        worker.id for worker in fleet
    }, "each of them had to give back jobs"


def test_a_job_on_a_draining_worker_can_be_cancelled(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    with start_echo_workers("w1", DRAIN_SECONDS="3600") as (worker,):
        job_id = submit("a b", max_tokens=3000)
        started(store, job_id)
        worker.signal(signal.SIGTERM)
        eventually(lambda: [announced["slots"] for announced in store.workers()] == [0])
        store.cancel(job_id)
        job = ended(store, job_id)
        assert job.status is Status.CANCELLED
        assert job.output[0].text.startswith("a b")
        assert worker.wait() == 0, "it stops as soon as it has no jobs"
        assert "Traceback" not in worker.output()


def test_a_prompt_that_hangs_its_tokenizer_fails_and_the_others_go_on(
    start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    """Its thread cannot be ended, so the process ends. The other jobs continue on another worker."""
    prompt = words("w", 120)
    with start_echo_workers(
        "w1", app="tests.reliability.endless", STEP_TIMEOUT_SECONDS="1", **SLOW_STEPS
    ) as (worker,):
        companion = submit(prompt, max_tokens=120)
        started(store, companion)
        endless = submit("endless prompt", max_tokens=4)
        assert worker.wait() == 1
        failed = store.get(endless)
        assert (failed.status, len(failed.attempts)) == (Status.FAILED, 1)
        assert failed.error == JobError("engine_error", "the prompt could not be prepared within 1 s")
    with start_echo_workers("w2"):
        ended(store, companion)
        attempts = assert_echoed(store, companion, prompt).attempts
        assert [attempt.reason for attempt in attempts] == ["drained", None]
