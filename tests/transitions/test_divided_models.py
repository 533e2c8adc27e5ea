"""A job keeps whether its model's workers divided outputs when it was accepted."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from tasks import keys
from tasks.job import Job
from tasks.output_parts import DIVIDED_SINCE_VERSION
from tasks.settings import Settings
from tests.transitions.harness import Harness
from tests.transitions.test_reasoning_marks import MARKS, OTHER_JOBS, submitted


@pytest.fixture
def harness(redis: Redis, settings: Settings) -> Harness:
    return Harness(redis, settings)


def divisions(harness: Harness, job: Job) -> tuple[bool, bool]:
    """Returns whether a job is divided as its readers see it, and as its worker does."""
    return harness.store.get(job.id).is_divided, harness.claim(job.id, f"t-{job.id}").is_divided


def test_a_conversation_is_divided_if_its_workers_do_that(harness: Harness) -> None:
    assert not submitted(harness).is_divided, "no worker has announced the model yet"
    harness.worker(4, divides=True)
    job = submitted(harness)
    assert divisions(harness, job) == (True, True)
    assert job.reasoning_marks is None
    harness.complete(harness.claim(job.id, f"t-{job.id}"))
    harness.make_due(keys.PREFIX + "unpacked", job.id)
    assert harness.store.get(job.id).is_divided, "its log is packed"


def test_the_announcement_counts_that_came_last(harness: Harness) -> None:
    harness.worker(4, divides=True)
    first = submitted(harness)
    harness.worker(4, marks=MARKS)
    second = submitted(harness)
    assert [divisions(harness, job) for job in (first, second)] == [(True, True), (False, False)]
    assert (first.reasoning_marks, second.reasoning_marks) == (None, MARKS)


@OTHER_JOBS
def test_other_jobs_are_not_divided(harness: Harness, origin: Any, options: Any) -> None:
    harness.worker(4, divides=True)
    assert divisions(harness, submitted(harness, origin, **options)) == (False, False)


def test_it_takes_a_worker_that_logs_parts(harness: Harness) -> None:
    harness.worker(4, "new", divides=True)
    harness.worker(0, "new", divides=True)
    harness.worker(4, "old", version=DIVIDED_SINCE_VERSION - 1, divides=True)
    chat, native = submitted(harness), submitted(harness, None)
    assert (chat.version, native.version) == (DIVIDED_SINCE_VERSION, 1)
    assert harness.offers == [("old", native.id)]
