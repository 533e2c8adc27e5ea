"""Structured outputs from the submit to the text, on real web servers and on workers that are killed."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from harness.waiting import eventually
from harness.workers import start_workers
from tasks.app import JobApp
from tasks.job import Job, Status
from tasks.request import JobRequest, parse_request
from tasks.settings import ANONYMOUS, Settings
from tasks.store import Store
from tests.integration.conftest import StartWorkers
from tests.integration.web_harness import assert_problem

pytest_plugins = ["tests.integration.web_fixtures"]

TALES: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "tale": {"type": "string", "minLength": 60, "maxLength": 90},
            "age": {"enum": [7, 70]},
        },
        "required": ["tale", "age"],
        "additionalProperties": False,
    },
    "minItems": 3,
    "maxItems": 3,
}
BODY: dict[str, Any] = {
    "prompt": "Once upon a time",
    "max_tokens": 400,
    "seed": 5,
    "n": 2,
    "structured_outputs": {"json": TALES},
}
HOSTILE: list[dict[str, Any]] = [
    {"json": {"type": "integer", "multipleOf": 9_999_991}},
    {"grammar": "start: " + "".join(f"r{i}\nr{i}: " for i in range(4800)) + '"a"'},
]


@pytest.fixture
def store(redis_url: str) -> Store:
    return Store(JobApp(Settings(redis_url=redis_url)).scripts())


@pytest.fixture
def start_bundled(redis_url: str, tmp_path: Path) -> StartWorkers:
    variables = {"REDIS_URL": redis_url, "LEASE_SECONDS": "1", "OMP_NUM_THREADS": "1", "DTYPE": "float32"}
    return partial(start_workers, folder=tmp_path, **variables)


def submitted(store: Store, **body: Any) -> str:
    return store.submit(parse_request(body), ANONYMOUS).job_id


def unchecked(store: Store, outputs: dict[str, Any]) -> str:
    """Submits as a process does that has no library to check the grammar with."""
    request = JobRequest.model_validate({"prompt": "a", "structured_outputs": outputs})
    return store.submit(request, ANONYMOUS).job_id


def ended(store: Store, job_id: str) -> Job:
    eventually(lambda: store.get(job_id).is_ended, timeout=90)
    return store.get(job_id)


@pytest.mark.parametrize("temperature", [0, 1])
def test_the_output_does_not_show_that_its_worker_died(
    start_bundled: StartWorkers, store: Store, temperature: float
) -> None:
    body = {**BODY, "temperature": temperature}
    with start_bundled("w1", "w2") as workers:
        undisturbed = ended(store, submitted(store, **body))
        for choice in undisturbed.output:
            jsonschema.validate(json.loads(choice.text), TALES)
        job_ids = [submitted(store, **body) for _ in range(3)]
        eventually(lambda: store.get(job_ids[0]).completion_tokens > 20)
        first_worker = store.get(job_ids[0]).attempts[0].worker
        next(w for w in workers if w.id == first_worker).signal(signal.SIGKILL)
        jobs = [ended(store, job_id) for job_id in job_ids]
    assert max(len(job.attempts) for job in jobs) == 2
    for job in jobs:
        assert job.output == undisturbed.output


def test_hostile_grammars_fail_by_themselves(start_bundled: StartWorkers, store: Store) -> None:
    """One takes hours to compile, the other one overflows the stack. Jobs beside them do not notice."""
    free = {"prompt": "Once upon a time", "max_tokens": 300, "seed": 5, "ignore_eos": True}
    with start_bundled("w1"):
        alone = ended(store, submitted(store, **free))
        hostile = [unchecked(store, outputs) for outputs in HOSTILE]
        beside = submitted(store, **free)
        ended(store, beside)
        assert not store.get(hostile[0]).is_ended or not store.get(hostile[1]).is_ended
        errors = [ended(store, job_id).error for job_id in hostile]
        after = ended(store, submitted(store, prompt="a", structured_outputs={"choice": ["yes", "no"]}))
    jobs = [store.get(beside), after, *map(store.get, hostile)]
    assert [len(job.attempts) for job in jobs] == [1] * len(jobs), "the worker must live"
    assert store.get(beside).output == alone.output
    assert [error and error.code for error in errors] == ["invalid_grammar"] * 2
    assert [error and error.message for error in errors] == [
        "structured_outputs.json: takes longer than 2 s to compile",
        "structured_outputs.grammar: is too complex to be compiled",
    ]
    assert after.status is Status.COMPLETED
    assert after.output[0].text in ("yes", "no")


@pytest.mark.parametrize(
    ("outputs", "field"),
    [
        ({"json": {"type": "objekt"}}, "structured_outputs.json"),
        ({"regex": "("}, "structured_outputs.regex"),
        ({"choice": []}, "structured_outputs.choice"),
        ({"grammar": "start: word"}, "structured_outputs.grammar"),
        ({}, "structured_outputs"),
        (HOSTILE[0], "structured_outputs.json"),
        (HOSTILE[1], "structured_outputs.grammar"),
    ],
)
def test_a_bad_grammar_is_refused_at_submit(client: httpx.Client, outputs: Any, field: str) -> None:
    answer = client.post("/v1/jobs", json={"prompt": "x", "structured_outputs": outputs})
    assert_problem(answer, 422, field)


def test_a_web_server_answers_others_while_grammars_are_checked(client: httpx.Client) -> None:
    """More of them than are checked at a time."""

    def submit(number: int) -> httpx.Response:
        schema = {"type": "integer", "multipleOf": 9_999_991, "title": str(number)}
        return client.post("/v1/jobs", json={"prompt": "x", "structured_outputs": {"json": schema}})

    with ThreadPoolExecutor(5) as others:
        hostile = [others.submit(submit, number) for number in range(5)]
        answers = 0
        while not all(one.done() for one in hostile):
            assert client.get("/health/live").status_code == 200
            answers += 1
    assert [one.result().status_code for one in hostile] == [422] * 5
    assert answers > 20
