"""A job keeps how its model marked reasoning when it was accepted."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from tasks import keys
from tasks.job import Job
from tasks.reasoning_marks import SHOWN_SINCE_VERSION, ReasoningMarks
from tasks.request import parse_request
from tasks.settings import Settings
from tests.transitions.harness import Harness

MARKS = ReasoningMarks("<think>", "</think>", is_opened=True)
SPECIAL = ReasoningMarks("[THINK]", "[/THINK]", is_opened=False, version=SHOWN_SINCE_VERSION)
CHAT = {"api": "chat.completions"}
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def harness(redis: Redis, settings: Settings) -> Harness:
    return Harness(redis, settings)


def submitted(harness: Harness, origin: Any = CHAT, **options: Any) -> Job:
    [made] = harness.store.submit_all([parse_request(options or {"messages": HELLO})], "ada", origin=origin)
    return harness.store.get(made.job_id)


def test_a_conversation_gets_what_a_worker_announced(harness: Harness) -> None:
    assert submitted(harness).reasoning_marks is None, "no worker has announced the model yet"
    harness.worker(4, marks=MARKS)
    job = submitted(harness)
    assert job.reasoning_marks == MARKS
    assert harness.claim(job.id).reasoning_marks == MARKS


OTHER_JOBS = pytest.mark.parametrize(
    ("origin", "options"),
    [
        (None, {"messages": HELLO}),
        ({"api": "completions"}, {"prompt": "hello"}),
        (CHAT, {"messages": HELLO, "structured_outputs": {"regex": "a"}}),
    ],
    ids=["a native job", "a completion", "a restricted output"],
)
"""Those that are no conversations of OpenAI's routes, or whose outputs a grammar restricts."""


@OTHER_JOBS
def test_other_jobs_have_no_marks(harness: Harness, origin: Any, options: Any) -> None:
    harness.worker(4, marks=MARKS)
    job = submitted(harness, origin, **options)
    assert job.reasoning_marks is None
    assert harness.claim(job.id).reasoning_marks is None


def test_a_job_keeps_its_marks_when_its_model_has_others(harness: Harness) -> None:
    harness.worker(4, marks=MARKS)
    first = submitted(harness)
    harness.worker(4, marks=SPECIAL)
    second = submitted(harness)
    harness.worker(4)
    third = submitted(harness)
    marks = [harness.store.get(job.id).reasoning_marks for job in (first, second, third)]
    assert marks == [MARKS, SPECIAL, None]
    harness.complete(harness.claim(first.id))
    harness.make_due(keys.PREFIX + "unpacked", first.id)
    assert harness.store.get(first.id).reasoning_marks == MARKS, "its log is packed"


def test_a_retry_gets_the_marks_of_its_own_time(harness: Harness) -> None:
    harness.worker(4, marks=MARKS)
    job = submitted(harness)
    harness.store.cancel(job.id)
    harness.worker(4, marks=SPECIAL)
    again = harness.store.get(harness.store.retry(job.id, "ada").job_id)
    assert (again.origin, again.reasoning_marks) == (CHAT, SPECIAL)


def test_marks_that_are_special_tokens_need_a_worker_that_shows_them(harness: Harness) -> None:
    """A worker of the earlier release would leave them out, and the next attempt would not."""
    harness.worker(4, "new", marks=SPECIAL)
    harness.worker(0, "new", marks=SPECIAL)
    harness.worker(4, "old", version=SHOWN_SINCE_VERSION - 1, marks=SPECIAL)
    chat, native = submitted(harness), submitted(harness, None)
    assert (chat.version, native.version) == (SHOWN_SINCE_VERSION, 1)
    assert harness.offers == [("old", native.id)]
    harness.worker(4, "new", marks=SPECIAL)
    assert harness.offers[1:] == [("new", chat.id)]


def test_marks_that_are_plain_tokens_need_no_newer_worker(harness: Harness) -> None:
    harness.worker(4, "old", version=1, marks=MARKS)
    job = submitted(harness)
    assert (job.version, harness.offers) == (1, [("old", job.id)])
