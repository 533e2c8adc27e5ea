"""A mixed fleet with the bundled model: a worker with transformers and one with vLLM, on one Redis.

`make test-vllm` runs it, because vLLM's worker needs its own environment. One file, because its tests share
these workers, which take half a minute to start.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import psutil
import pytest

from client import Client, Event
from harness.product import Web
from harness.redis_server import start_redis
from harness.waiting import TIMEOUT_SECONDS, eventually
from harness.workers import ROOT, WorkerProcess
from tests.integration.web_sockets import assert_gapless, texts

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
LOADING_SECONDS = 120.0
PROMPT = "Once upon a time"
LONG = 900
"""Tokens of a job that takes a second or more, so that a test can act meanwhile."""

TALES: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "tale": {"type": "string", "minLength": 150, "maxLength": 200},
            "age": {"enum": [7, 70]},
        },
        "required": ["tale", "age"],
        "additionalProperties": False,
    },
    "minItems": 4,
    "maxItems": 4,
}

GREEDY: dict[str, Any] = {"prompt": PROMPT, "temperature": 0, "ignore_eos": True}
VARIABLES = {
    "MAX_NUM_SEQS": "4",
    "LEASE_SECONDS": "1",
    "DRAIN_SECONDS": "1",
    "OMP_NUM_THREADS": "1",
    "KV_CACHE_GIB": "0.25",
}
VLLM = {"ENGINE": "vllm", "ENGINE_ARGS": '{"enforce_eager": true}'}
"""Without compilation, which takes half a minute and makes no difference here."""


class MixedFleet:
    """`slow` runs transformers, `fast` runs vLLM. `fast` is restarted if a test has ended it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._redis, redis_url = start_redis(folder)
        self._variables = {"REDIS_URL": redis_url, **VARIABLES}
        self.web = Web(redis_url, folder, {"ENGINE": "transformers", **VARIABLES})
        self.slow = self._start("slow", {"ENGINE": "transformers"})
        self._generation = 0
        self.fast = self._start_fast()
        self.slow.wait_until_ready(LOADING_SECONDS)
        self.fast.wait_until_ready(LOADING_SECONDS)
        self.web.start()
        self.client = Client(self.web.url)

    def stop(self) -> None:
        self.client.close()
        for worker in (self.slow, self.fast):
            worker.process.kill()
            worker.process.wait()
        self.web.stop()
        self._redis.kill()
        self._redis.wait()

    def ensure_fast(self) -> None:
        if self.fast.process.poll() is not None:
            self.fast = self._start_fast()
            self.fast.wait_until_ready(LOADING_SECONDS)
        eventually(lambda: self.fast.id in self.workers())

    def workers(self) -> dict[str, str]:
        """Returns worker -> its engine."""
        health = httpx.get(f"{self.web.url}/health").json()
        return {worker["id"]: worker["engine"] for worker in health["workers"]}

    def post(self, path: str, **body: Any) -> httpx.Response:
        answer = httpx.post(self.web.url + path, json=body, timeout=TIMEOUT_SECONDS)
        assert answer.is_success, answer.text
        return answer

    def workers_of(self, job_id: str) -> list[str]:
        return [attempt["worker"] for attempt in self.client.get(job_id).fields["attempts"]]

    def wait_for_tokens(self, job_id: str, count: int) -> None:
        eventually(lambda: self.client.get(job_id).fields["usage"]["completion_tokens"] >= count)

    def events(self, job_id: str) -> list[Event]:
        return list(self.client.stream(job_id))

    def ended(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.client.wait(job_id, timeout=LOADING_SECONDS).fields
        return job

    def _start_fast(self) -> WorkerProcess:
        self._generation += 1
        return self._start(f"fast{self._generation}", VLLM, str(VLLM_PYTHON))

    def _start(self, name: str, variables: dict[str, str], *python: str) -> WorkerProcess:
        log = self._folder / f"{name}.log"
        return WorkerProcess(name, {**self._variables, **variables}, log, "worker.app", *python)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MixedFleet]:
    assert VLLM_PYTHON.exists(), "make test-vllm sets up .venv-vllm"
    fleet = MixedFleet(tmp_path_factory.mktemp("fleet"))
    yield fleet
    fleet.stop()


@pytest.fixture
def fleet(started: MixedFleet) -> MixedFleet:
    started.ensure_fast()
    return started


def children(worker: WorkerProcess) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(worker.process.pid).children(recursive=True)
    return found


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def last_line(worker: WorkerProcess, level: str) -> str:
    return [line for line in worker.output().splitlines() if level in line][-1]


def test_both_routes_are_served_at_once(fleet: MixedFleet) -> None:
    prompts = [f"{PROMPT} there were {i}" for i in range(8)]
    body = {"prompts": prompts, "max_tokens": 12, "temperature": 0}
    with ThreadPoolExecutor(2) as pool:
        routes = ["/generate", "/generate_vllm"]
        any_engine, on_vllm = pool.map(lambda route: fleet.post(route, **body), routes)
    assert any_engine.json() == on_vllm.json(), "in float32 and greedy, both engines generate the same text"
    assert all(any_engine.json()["generated_texts"])
    workers = [fleet.workers_of(job_id) for job_id in any_engine.headers["X-Job-ID"].split(",")]
    assert [fleet.slow.id] in workers
    for job_id in on_vllm.headers["X-Job-ID"].split(","):
        assert fleet.workers_of(job_id) == [fleet.fast.id]


def test_the_fleet_is_shown_with_its_engines(fleet: MixedFleet) -> None:
    assert fleet.workers() == {fleet.slow.id: "transformers", fleet.fast.id: "vllm"}
    [model] = httpx.get(f"{fleet.web.url}/v1/models").json()["data"]
    assert (model["id"], model["engines"], model["slots"]) == ("bundled", ["transformers", "vllm"], 8)


def test_a_stream_of_vllms_tokens(fleet: MixedFleet) -> None:
    job_id = fleet.client.submit(**GREEDY, engine="vllm", max_tokens=40, n=2).id
    events = list(fleet.client.stream(job_id))
    assert_gapless(events)
    job = fleet.ended(job_id)
    assert (job["status"], job["usage"]["completion_tokens"]) == ("completed", 80)
    for index, choice in enumerate(job["output"]):
        assert texts([event for event in events if event.get("index") == index]) == choice["text"]
    assert len([event for event in events if event["type"] == "token"]) > 20, (
        "tokens must come one by one, not all at the end"
    )


def test_all_options_mean_the_same_on_both_engines(fleet: MixedFleet) -> None:
    options = {
        **GREEDY,
        "max_tokens": 30,
        "logprobs": 2,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "stop": ["zzz", "."],
    }
    on_vllm, on_transformers = (
        fleet.ended(fleet.client.submit(**options, engine=engine).id)["output"][0]
        for engine in ("vllm", "transformers")
    )
    assert on_vllm["text"] == on_transformers["text"]
    assert on_vllm["finish_reason"] == on_transformers["finish_reason"]
    for one, other in zip(on_vllm["logprobs"], on_transformers["logprobs"], strict=True):
        assert one["token"] == other["token"]
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-3)


def test_a_seed_gives_vllms_text_again(fleet: MixedFleet) -> None:
    options = {**GREEDY, "temperature": 1, "seed": 11, "n": 2, "max_tokens": 20, "engine": "vllm"}
    first, again = (fleet.ended(fleet.client.submit(**options).id)["output"] for _ in range(2))
    assert first == again
    assert first[0]["text"] != first[1]["text"]


def test_a_prompt_that_is_too_long_ends_with_the_numbers(fleet: MixedFleet) -> None:
    job = fleet.ended(fleet.client.submit("word " * 3000, engine="vllm").id)
    assert job["error"]["code"] == "prompt_too_long"
    assert re.match(r"the prompt has 30\d\d tokens; .* is 1024", job["error"]["message"])


def test_a_cancel_keeps_the_text_and_frees_the_slots(fleet: MixedFleet) -> None:
    job_ids = [fleet.client.submit(**GREEDY, engine="vllm", max_tokens=LONG).id for _ in range(4)]
    waiting = fleet.client.submit(**GREEDY, engine="vllm", max_tokens=4).id

    def cancel_soon(job_id: str) -> None:
        fleet.wait_for_tokens(job_id, 1)
        fleet.client.cancel(job_id)

    with ThreadPoolExecutor(len(job_ids)) as pool:
        list(pool.map(cancel_soon, job_ids))
    for job_id in job_ids:
        job = fleet.ended(job_id)
        assert (job["status"], job["output"][0]["finish_reason"]) == ("cancelled", "cancelled")
        assert 0 < job["usage"]["completion_tokens"] < LONG
    assert fleet.ended(waiting)["status"] == "completed"


def test_a_stream_survives_the_death_of_vllms_worker(fleet: MixedFleet) -> None:
    """The worker is killed with all its processes. The job continues on transformers, with the same text."""
    undisturbed = fleet.ended(fleet.client.submit(**GREEDY, engine="transformers", max_tokens=LONG).id)
    below = children(fleet.fast)
    # First, so that it waits for none of the others.
    bound = fleet.client.submit(**GREEDY, engine="vllm", max_tokens=LONG).id
    job_ids = [fleet.client.submit(**GREEDY, max_tokens=LONG).id for _ in range(4)]
    taken = eventually(lambda: [one for one in job_ids if fleet.workers_of(one) == [fleet.fast.id]])
    # Not tokens of the native engine: reading thousands of events a second would delay the next steps.
    with ThreadPoolExecutor(len(taken)) as pool:
        streams = [pool.submit(fleet.events, job_id) for job_id in taken]
        fleet.wait_for_tokens(bound, 5)
        fleet.fast.process.kill()
        fleet.fast.process.wait()
        for stream in streams:
            events = stream.result(LOADING_SECONDS)
            assert_gapless(events)
            assert texts(events) == undisturbed["output"][0]["text"]
    for job_id in taken:
        assert fleet.workers_of(job_id)[1:] == [fleet.slow.id]
    assert fleet.client.get(bound).status == "in_progress", "only vLLM may continue it"
    eventually(lambda: are_gone(below))

    fleet.ensure_fast()
    job = fleet.ended(bound)
    assert job["output"][0]["text"] == undisturbed["output"][0]["text"]
    assert [attempt["worker"] for attempt in job["attempts"]][1:] == [fleet.fast.id]


def test_a_structured_output_survives_the_death_of_vllms_worker(fleet: MixedFleet) -> None:
    """Both engines follow the same grammar, so either of them continues the other's output."""
    options: dict[str, Any] = {**GREEDY, "max_tokens": LONG, "structured_outputs": {"json": TALES}}
    undisturbed = fleet.ended(fleet.client.submit(**options, engine="transformers").id)
    on_vllm = fleet.ended(fleet.client.submit(**options, engine="vllm").id)
    jsonschema.validate(json.loads(undisturbed["output"][0]["text"]), TALES)
    assert on_vllm["output"] == undisturbed["output"]

    job_ids = [fleet.client.submit(**options).id for _ in range(4)]
    taken = eventually(lambda: [one for one in job_ids if fleet.workers_of(one) == [fleet.fast.id]])
    fleet.wait_for_tokens(taken[0], 20)
    fleet.fast.process.kill()
    fleet.fast.process.wait()
    assert [fleet.ended(one)["output"] for one in job_ids] == [undisturbed["output"]] * 4
    assert fleet.workers_of(taken[0])[1:] == [fleet.slow.id]
    fleet.ensure_fast()


def test_a_dead_engine_core_ends_the_worker_with_one_line(fleet: MixedFleet) -> None:
    job_id = fleet.client.submit(**GREEDY, engine="vllm", max_tokens=LONG).id
    fleet.wait_for_tokens(job_id, 2)
    below = children(fleet.fast)
    for process in below:
        if os.getpgid(process.pid) != os.getpgid(fleet.fast.process.pid):
            process.kill()
    assert fleet.fast.wait() == 1
    assert last_line(fleet.fast, "CRITICAL").endswith(
        "the vLLM engine core died; its error is in the log lines above; the worker ends"
    )
    eventually(lambda: are_gone(below))
    fleet.ensure_fast()
    assert fleet.ended(job_id)["usage"]["completion_tokens"] == LONG


def test_an_idle_worker_notices_its_dead_core(fleet: MixedFleet) -> None:
    """An idle worker does not call its core. If it claimed a job, the job would only lose time."""
    for process in children(fleet.fast):
        if os.getpgid(process.pid) != os.getpgid(fleet.fast.process.pid):
            process.kill()
    assert fleet.fast.wait() == 1


def test_a_worker_that_is_told_to_stop_leaves_nothing_behind(fleet: MixedFleet) -> None:
    """A Ctrl-C reaches the whole process group, but vLLM's processes must live until the drain has ended."""
    below = children(fleet.fast)
    job_id = fleet.client.submit(**GREEDY, max_tokens=LONG, engine="vllm").id
    fleet.wait_for_tokens(job_id, 2)
    group = os.getpgid(fleet.fast.process.pid)
    for process in [p for p in below if os.getpgid(p.pid) == group]:
        process.send_signal(signal.SIGINT)
    fleet.fast.signal(signal.SIGTERM)  # Celery stops as for SIGINT, whose exit code is 1.
    assert fleet.fast.wait() == 0
    eventually(lambda: are_gone(below))
    [attempt] = fleet.client.get(job_id).fields["attempts"]
    assert attempt["reason"] == "drained"
    fleet.client.cancel(job_id)
