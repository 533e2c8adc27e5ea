"""The bundled model on real workers: clients get what the model generates, on whichever worker it runs."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, OPTForCausalLM

from harness.waiting import eventually
from harness.workers import start_workers
from tasks.app import JobApp
from tasks.job import PREEMPTED, Job, Status
from tasks.log import TokenEntry
from tasks.request import parse_request
from tasks.settings import ANONYMOUS, Settings
from tasks.store import Store
from tests.integration.conftest import StartWorkers
from worker.engine.model_files import BUNDLED_MODEL

GREEDY: dict[str, Any] = {
    "prompt": "Once upon a time",
    "max_tokens": 200,
    "temperature": 0,
    "ignore_eos": True,
}
SEEDED: dict[str, Any] = GREEDY | {"temperature": 1, "seed": 7}
ALL_OPTIONS: dict[str, Any] = SEEDED | {
    "min_p": 0.02,
    "top_k": 50,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
}

BFLOAT16_TOLERANCE = 0.1
"""In logits: how far bfloat16's choice may be below float32's best token."""

Submit = Callable[..., str]


@pytest.fixture
def store(redis_url: str) -> Store:
    app = JobApp(Settings(redis_url=redis_url))
    return Store(app.scripts())


@pytest.fixture
def submit(store: Store) -> Submit:
    return lambda **body: store.submit(parse_request(body), ANONYMOUS).job_id


@pytest.fixture
def start_bundled(redis_url: str, tmp_path: Path) -> StartWorkers:
    """Starts workers with one thread each. Otherwise two workers on two cores would wait for each other."""
    variables = {"REDIS_URL": redis_url, "LEASE_SECONDS": "1", "OMP_NUM_THREADS": "1", "DTYPE": "float32"}
    return partial(start_workers, folder=tmp_path, **variables)


def ended(store: Store, job_id: str) -> Job:
    eventually(lambda: store.get(job_id).is_ended, timeout=90)
    return store.get(job_id)


def test_sampling_depends_on_the_seed_and_on_nothing_else(
    start_bundled: StartWorkers, store: Store, submit: Submit
) -> None:
    with start_bundled("w1"):
        alone = ended(store, submit(**SEEDED))
        among_others = submit(**SEEDED)
        others = [submit(prompt="The fox", max_tokens=10 + 9 * i, seed=i) for i in range(12)]
        assert ended(store, among_others).output == alone.output
        texts = {ended(store, job_id).output[0].text for job_id in others}
        assert len(texts) == len(others)
        shown = [e.text for e in store.read_log(alone.id) if isinstance(e, TokenEntry)]
        assert "".join(shown) == alone.output[0].text
        assert len(shown) > 3, "it must come in several pieces"


def test_a_chat_message_gets_an_answer(start_bundled: StartWorkers, store: Store, submit: Submit) -> None:
    with start_bundled("w1"):
        messages = [{"role": "user", "content": "Tell me a story about a fox."}]
        job = ended(store, submit(messages=messages, max_tokens=60, temperature=0))
        assert job.status is Status.COMPLETED
        assert len(job.output[0].text) > 60
        assert "<" not in job.output[0].text, "special tokens are not shown"


def test_messages_that_the_template_refuses_fail_alone(
    start_bundled: StartWorkers, store: Store, submit: Submit
) -> None:
    with start_bundled("w1"):
        refused = submit(messages=[{"role": "tool", "content": "42"}])
        other = submit(**GREEDY)
        error = ended(store, refused).error
        assert error is not None
        assert error.code == "invalid_messages"
        assert error.message == "the model's chat template refuses these messages: unknown role: tool"
        assert ended(store, other).status is Status.COMPLETED


@pytest.mark.parametrize("body", [GREEDY, SEEDED, ALL_OPTIONS], ids=["greedy", "seeded", "all options"])
def test_the_text_does_not_show_that_its_worker_died(
    start_bundled: StartWorkers, store: Store, submit: Submit, body: dict[str, Any]
) -> None:
    with start_bundled("w1", "w2") as workers:
        undisturbed = ended(store, submit(**body))
        job_ids = [submit(**body) for _ in range(6)]
        eventually(lambda: store.get(job_ids[0]).completion_tokens > 20)
        first_worker = store.get(job_ids[0]).attempts[0].worker
        next(w for w in workers if w.id == first_worker).signal(signal.SIGKILL)
        jobs = [ended(store, job_id) for job_id in job_ids]
        assert max(len(job.attempts) for job in jobs) == 2
        for job in jobs:
            assert job.output == undisturbed.output


def has_tokens(store: Store, job_id: str, tokens: int) -> None:
    eventually(lambda: store.get(job_id).completion_tokens > tokens)


@pytest.mark.parametrize("body", [GREEDY, SEEDED, ALL_OPTIONS], ids=["greedy", "seeded", "all options"])
def test_the_text_does_not_show_that_its_job_was_preempted(
    start_bundled: StartWorkers, store: Store, submit: Submit, body: dict[str, Any]
) -> None:
    body = body | {"max_tokens": 800}
    with start_bundled("w1", MAX_NUM_SEQS="2"):
        undisturbed = ended(store, submit(**body))
        low = [submit(**body, priority="low") for _ in range(2)]
        for tokens in (20, 200):
            for job_id in low:
                has_tokens(store, job_id, tokens)
            assert ended(store, submit(prompt="The fox", max_tokens=5, n=2)).status is Status.COMPLETED
        for job in (ended(store, job_id) for job_id in low):
            assert job.output == undisturbed.output
            assert [attempt.reason for attempt in job.attempts] == [PREEMPTED, PREEMPTED, None]


def logits_below_the_best(model: OPTForCausalLM, prompt_ids: list[int], token_ids: list[int]) -> Tensor:
    """Returns how far each token is below the best one, teacher-forced; float32 [tokens]."""
    ids = torch.tensor([prompt_ids + token_ids])
    with torch.inference_mode():
        logits: Tensor = model(ids).logits[0, len(prompt_ids) - 1 : -1]
    return logits.max(dim=-1).values - logits.gather(1, torch.tensor(token_ids)[:, None])[:, 0]


def test_in_bfloat16_an_interrupted_text_differs_by_ties_only(
    start_bundled: StartWorkers, store: Store, submit: Submit
) -> None:
    """Rounding depends on the batch's shape, so runs may differ where two tokens are about equally good."""
    model = OPTForCausalLM.from_pretrained(BUNDLED_MODEL, dtype=torch.float32)
    prompt_ids = AutoTokenizer.from_pretrained(BUNDLED_MODEL)(GREEDY["prompt"])["input_ids"]
    with start_bundled("w1", "w2", DTYPE="bfloat16") as workers:
        undisturbed = ended(store, submit(**GREEDY)).output[0].token_ids
        job_ids = [submit(**GREEDY) for _ in range(6)]
        eventually(lambda: store.get(job_ids[0]).completion_tokens > 20)
        first_worker = store.get(job_ids[0]).attempts[0].worker
        next(w for w in workers if w.id == first_worker).signal(signal.SIGKILL)
        jobs = [ended(store, job_id) for job_id in job_ids]
    assert max(len(job.attempts) for job in jobs) == 2
    for token_ids in [undisturbed, *(job.output[0].token_ids for job in jobs)]:
        assert len(token_ids) == GREEDY["max_tokens"]
        below = logits_below_the_best(model, prompt_ids, token_ids)
        # This includes the first difference. The texts are equal up to it, so both tokens are near the best.
        assert below.max() <= BFLOAT16_TOLERANCE
