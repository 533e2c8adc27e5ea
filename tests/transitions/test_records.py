"""How clients read jobs, and how long jobs are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.waiting import eventually
from harness.writing import flush, write_of
from tasks import keys
from tasks.errors import (
    ConflictError,
    InvalidRequestError,
    JobNotFoundError,
)
from tasks.job import JobError, Status
from tasks.leases import Claim, Outcome, Write
from tasks.log import TokenEntry
from tasks.request import parse_request
from tests.transitions.harness import Harness


def test_positions_and_reasons(harness: Harness) -> None:
    harness.worker(1)
    jobs = [harness.submit() for _ in range(4)]
    harness.claim(jobs[0])
    waiting = [harness.store.get(job_id) for job_id in jobs[1:]]
    assert [job.queue_position for job in waiting] == [0, 1, 2]
    assert [job.reason for job in waiting] == ["next in line", "1 job ahead", "2 jobs ahead"]
    assert harness.store.get(jobs[0]).queue_position is None


def test_listing_pages_through_an_owners_jobs(harness: Harness) -> None:
    jobs = [harness.submit("ada") for _ in range(5)]
    harness.submit("bob")
    harness.store.cancel(jobs[2])
    page = harness.store.list_jobs("ada", limit=2)
    assert ([job.id for job in page.jobs], page.has_more) == ([jobs[4], jobs[3]], True)
    page = harness.store.list_jobs("ada", limit=3, after=jobs[3])
    assert ([job.id for job in page.jobs], page.has_more) == ([jobs[2], jobs[1], jobs[0]], False)
    page = harness.store.list_jobs("ada", Status.QUEUED, limit=2, after=jobs[2])
    assert [job.id for job in page.jobs] == [jobs[1], jobs[0]]
    with pytest.raises(InvalidRequestError, match="after"):
        harness.store.list_jobs("bob", after=jobs[0])


def test_many_long_jobs_are_read_in_parts(harness: Harness) -> None:
    """A single script call would block Redis, and its answer this process, while all of them are read."""
    prompts = ["a" * 600_000, "b" * 600_000, "c", "d" * 2_000_000, "e", "f"]
    jobs = [harness.submit(prompt=prompt) for prompt in prompts]
    jobs.insert(4, "job_nope")
    parts = list(harness.store.read(jobs))
    assert [[job.request["prompt"][0] for job in part] for part in parts] == [
        ["a", "b"],
        ["c", "d"],
        ["e", "f"],
    ]
    assert [job.id for part in parts for job in part] == [job_id for job_id in jobs if job_id != "job_nope"]
    assert [job.queue_position for part in parts for job in part] == [*range(6)]
    assert list(harness.store.read([])) == []


def test_summaries_bring_no_long_prompts_along(harness: Harness) -> None:
    jobs = [harness.submit(prompt=letter * 500_000) for letter in "ab"] + [
        harness.submit(prompt="short"),
        "job_nope",
    ]
    found = harness.store.summaries(jobs)
    assert [(job.id, job.prompt, job.queue_position) for job in found] == [
        (jobs[0], "a" * 200, 0),
        (jobs[1], "b" * 200, 1),
        (jobs[2], "short", 2),
    ]
    answer = harness.scripts.call("summaries", long_enough=keys.LONG_ANSWER_BYTES, ids=jobs)["rows"]
    assert sum(len(text) for row in answer for text in row) < 3000
    # Records of an earlier version, which did not store the start of the prompt, are read whole, in parts.
    for job_id in jobs[:2]:
        harness.redis.hdel(keys.job(job_id), "prompt_start")
    assert harness.store.summaries(jobs) == found
    assert len(harness.scripts.call("summaries", long_enough=400_000, ids=jobs)["rows"]) == 1


def test_lists_show_the_numbers_of_a_prompt_of_token_ids(harness: Harness) -> None:
    token_ids = list(range(1000, 1400))
    long = harness.store.submit(parse_request({"prompt_token_ids": token_ids}), "ada").job_id
    [summary] = harness.store.summaries([long])
    assert summary.prompt == " ".join(map(str, token_ids))[:200]


def test_retention_removes_every_trace(harness: Harness) -> None:
    harness.worker(1)
    job_id = harness.store.submit(parse_request({"prompt": "x"}), "ada", "key").job_id
    harness.complete(harness.claim(job_id))
    harness.make_due(keys.PREFIX + "ended", job_id)
    with pytest.raises(JobNotFoundError):
        harness.store.get(job_id)
    left = {key.removeprefix(keys.PREFIX).split(":")[0] for key in harness.redis.keys("*")}
    kept = {
        "alive",
        "capacity",
        "classes",
        "counts",
        "maxmemory",
        "models_since",
        "pools",
        "reaped_at",
        "run",
        "stats",
        "versions",
        "widest",
        "workers",
    }
    assert left <= kept | {"finish", "virtual"}
    assert sum(harness.store.counts().values()) == 0


def test_a_job_may_be_kept_for_less_than_others(harness: Harness) -> None:
    harness.worker(1)
    request = parse_request({"prompt": "x"})
    usual = harness.submit()
    [brief] = harness.store.submit_all([request], "ada", "key", keep_seconds=0.1)
    assert brief.job is not None
    assert brief.job.keep_seconds == harness.store.get(brief.job_id).keep_seconds == 0.1
    harness.store.cancel(usual)
    harness.store.cancel(brief.job_id)
    retried = harness.store.retry(brief.job_id, "ada").job_id
    assert harness.store.get(retried).keep_seconds == 0.1

    def is_gone() -> bool:
        harness.reap()
        return not harness.redis.exists(keys.job(brief.job_id))

    eventually(is_gone)
    assert harness.store.get(usual).keep_seconds is None
    assert not harness.store.get(retried).is_ended
    [endless] = harness.store.submit_all([request], "ada", keep_seconds=1e9)
    harness.store.cancel(endless.job_id)
    ended = harness.redis.zscore(keys.PREFIX + "ended", endless.job_id)
    assert ended <= harness.now(), "nothing is kept for longer than the others"


def test_an_ended_jobs_log_is_packed_and_reads_as_before(harness: Harness) -> None:
    def memory(key: str) -> int:
        return int(harness.redis.memory_usage(key, samples=0))  # All fields, not a sample.

    harness.worker(1)
    job_id = harness.submit()
    claim = harness.claim(job_id)
    tokens = [TokenEntry(0, (i,), f"word {i}\n\u2028") for i in range(300)]
    flush(harness.leases, [write_of(job_id, claim.lease_token, 1, 1, tokens)])
    assert not harness.reaper.pack(job_id), "a running job is not packed"
    flush(harness.leases, [write_of(job_id, claim.lease_token, 301, 1, (), Outcome(Status.COMPLETED))])
    job, log = harness.store.get(job_id), harness.store.read_log(job_id)
    before = memory(keys.job(job_id)) + memory(keys.log(job_id))

    harness.make_due(keys.PREFIX + "unpacked", job_id)

    assert not harness.redis.exists(keys.log(job_id))
    assert memory(keys.job(job_id)) < before / 2
    assert replace(harness.store.get(job_id), read_at=job.read_at) == job
    assert harness.store.read_log(job_id) == log
    assert harness.store.read_page(job_id, after=5, limit=10).entries == log[5:15]
    assert harness.store.header(job_id).log_length == 302


def test_a_request_that_can_never_run_is_kept_cut_short(harness: Harness) -> None:
    harness.worker(8)
    messages = [{"role": "user", "content": "é" * 100_000}] * 10
    jobs = [harness.submit(prompt="x" * 900_000), harness.submit(prompt=None, messages=messages)]
    for job_id in jobs:
        flush(harness.leases, [_futile(harness.claim(job_id, lease_token=job_id))])
        assert not harness.store.get(job_id).is_request_truncated
        harness.make_due(keys.PREFIX + "unpacked", job_id)
        assert harness.redis.memory_usage(keys.job(job_id), samples=0) < 8_000
        with pytest.raises(ConflictError, match="prompt_too_long, so its whole request was not kept"):
            harness.store.retry(job_id, "ada")
    of_prompt, of_messages = (harness.store.get(job_id) for job_id in jobs)
    assert of_prompt.request["prompt"] == "x" * 200
    assert [len(message["content"]) for message in of_messages.request["messages"]] == [200] * 4
    assert of_prompt.is_request_truncated
    for job_id in jobs:
        harness.store.delete(job_id, "ada")
    assert not harness.redis.exists(keys.PREFIX + "bytes")


def _futile(claim: Claim) -> Write:
    outcome = Outcome(Status.FAILED, JobError("prompt_too_long", "in words"))
    return write_of(claim.job_id, claim.lease_token, len(claim.log), 1, (), outcome)
