"""Batches with a small window, a small queue, files on disk, and damage, each on a Redis of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import pytest
from openai.types import Batch
from redis import Redis

from harness.waiting import eventually
from tasks import keys
from tasks.app import JobApp
from tasks.batches import Batches
from tasks.files import Files
from tasks.job import Status
from tasks.settings import Settings
from tests.integration.batch_harness import (
    COMPLETIONS,
    assert_answered_once,
    completed,
    create,
    ended,
    jsonl,
    line,
    read_lines,
    until,
)
from tests.integration.openai_own_server import own_server
from web.openai.batches.feeder import BatchFeeder
from web.openai.batches.steps import BUSY_SECONDS, POLL_SECONDS


def test_a_window_at_a_time_becomes_jobs(redis_url: str, tmp_path: Path) -> None:
    with own_server(redis_url, tmp_path, BATCH_WINDOW="2") as own:
        made = create(own.sdk, [line(str(number)) for number in range(7)])
        for size in (2, 2, 2, 1):
            runs = own.calls.start(size)
            assert own.redis.hlen(f"{keys.PREFIX}batch_lines:{made.id}") == size
            for run in runs:
                run.complete("x")
        done = ended(own.sdk, made.id)
        assert_answered_once(own.sdk, done, "0123456")


def test_a_batch_that_runs_gets_its_next_turn_soon(redis_url: str) -> None:
    store = JobApp(Settings(redis_url=redis_url)).store
    files, batches = Files(store.scripts), Batches(store.scripts)
    upload = files.upload("ada")
    upload.write(jsonl([line("a"), line("b")]))
    file = upload.finish("a", "batch", 60)
    made = batches.create("ada", file.id, COMPLETIONS, 1, {}, None, None)
    feeder = BatchFeeder(store, batches, files)
    assert feeder.turn() == 0, "it was validated"
    assert feeder.turn() == POLL_SECONDS
    for open_line in batches.open_lines(made.id):
        store.cancel(*open_line.job_ids)
    batches.rest(made.id, 0)
    assert feeder.turn() <= BUSY_SECONDS, "its lines were answered"
    assert batches.get(made.id).failed == 2


def test_lines_that_were_never_jobs_are_answered_when_the_window_is_over(
    redis_url: str, tmp_path: Path
) -> None:
    with own_server(redis_url, tmp_path, BATCH_WINDOW="2") as own:
        made = create(own.sdk, [line(str(number)) for number in range(1000)], completion_window="1h")
        assert made.expires_at == made.created_at + 3600
        first, second = own.calls.start(2)
        first.complete("x")
        own.redis.hset(keys.batch(made.id), "expires_at", 0)
        eventually(lambda: second.renew() is not None)
        second.end(Status.CANCELLED)
        done = ended(own.sdk, made.id)
        assert done.status == "expired"
        assert done.expired_at is not None
        assert_answered_once(own.sdk, done, map(str, range(1000)))
        found = read_lines(own.sdk, done.error_file_id)
        assert {each["error"]["code"] for each in found} == {"batch_expired"}
        assert read_lines(own.sdk, done.error_file_id, extra_query={"offset": "990"}) == found[990:]
        assert own.redis.keys("*:job:*") == []


def test_a_batch_leaves_room_in_the_queue_and_waits_for_its_own(redis_url: str, tmp_path: Path) -> None:
    with own_server(redis_url, tmp_path, MAX_QUEUED_JOBS="8") as own:
        made = create(own.sdk, [line(str(number)) for number in range(20)])
        # Four run, and four wait.
        running = [own.calls.start_one(job_id) for job_id in own.calls.new_jobs(8)[:4]]
        with httpx.Client(base_url=own.server.url) as client:
            answers = [client.post("/v1/jobs", json={"prompt": "x"}) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [202, 202, 202, 202, 429]
        assert own.sdk.batches.cancel(made.id).status == "cancelling"
        for run in running:
            run.end(Status.CANCELLED)
        assert_answered_once(own.sdk, ended(own.sdk, made.id), map(str, range(20)))


def test_with_a_folder_the_output_is_moved_to_disk(redis_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    with own_server(redis_url, tmp_path, FILES_DIR=str(folder)) as own:
        made = create(own.sdk, [line("a"), line("b")])
        for run in own.calls.start(2):
            run.complete("x")
        done = ended(own.sdk, made.id)
        assert_answered_once(own.sdk, done, "ab")
        assert own.redis.keys("*:content:*") == []
        assert {path.name for path in folder.iterdir()} == {done.input_file_id, done.output_file_id}
        assert own.sdk.files.delete(done.input_file_id).deleted
        assert own.sdk.files.delete(str(done.output_file_id)).deleted
        assert list(folder.iterdir()) == []


def test_a_batch_waits_for_a_folder_that_cannot_be_used(redis_url: str, tmp_path: Path) -> None:
    folder, away = tmp_path / "files", tmp_path / "away"
    with own_server(redis_url, tmp_path, FILES_DIR=str(folder)) as own:
        made = create(own.sdk, [line("a")])
        [run] = own.calls.start()
        folder.rename(away)
        folder.write_text("a file where the folder should be")
        with pytest.raises(openai.InternalServerError) as refused:
            own.sdk.files.create(file=("b", b"{}"), purpose="batch")
        assert (refused.value.status_code, refused.value.response.headers["Retry-After"]) == (503, "5")
        run.complete("x")
        until(own.sdk, made.id, lambda batch: batch.status == "finalizing")
        folder.unlink()
        away.rename(folder)
        done = ended(own.sdk, made.id)
        assert done.status == "completed"
        assert_answered_once(own.sdk, done, "a")
        assert own.redis.keys("*:content:*") == []


Damage = Callable[[Redis, Batch], object]

DAMAGES: dict[str, Damage] = {
    "input": lambda redis, batch: redis.delete(keys.content(batch.input_file_id)),
    "input record": lambda redis, batch: redis.delete(keys.file(batch.input_file_id)),
    "output": lambda redis, batch: redis.delete(keys.content(str(batch.output_file_id))),
    "output record": lambda redis, batch: redis.delete(keys.file(str(batch.output_file_id))),
    "error file's record": lambda redis, batch: redis.delete(keys.file(str(batch.error_file_id))),
    "open lines": lambda redis, batch: redis.delete(f"{keys.PREFIX}batch_lines:{batch.id}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_batch_fails_with_a_reason(redis_url: str, tmp_path: Path, damage: str) -> None:
    with own_server(redis_url, tmp_path, BATCH_WINDOW="1") as own:
        made = create(own.sdk, [line(str(number)) for number in range(3)])
        [first] = own.calls.start()
        first.complete("x")
        [second] = own.calls.start()
        running = until(own.sdk, made.id, lambda batch: completed(batch) == 1)
        DAMAGES[damage](own.redis, running)
        second.complete("x")
        if damage == "open lines":
            [third] = own.calls.start()
            third.complete("x")
        done = ended(own.sdk, made.id)
        assert done.status == "failed"
        assert done.failed_at is not None
        assert done.errors is not None
        assert done.errors.data is not None
        assert [error.code for error in done.errors.data] == ["damaged"]
        assert done.errors.data[0].message
