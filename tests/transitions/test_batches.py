"""The scripts of batches: each rule by itself, and each call repeated."""

from __future__ import annotations

import json

import pytest
from redis import Redis

from tasks import keys
from tasks.batch import BatchError, FedLine
from tasks.batches import Batches
from tasks.errors import (
    BatchNotFoundError,
    ConflictError,
    FileDamagedError,
    IdempotencyConflictError,
    InvalidRequestError,
    NoSuchFileError,
    QueueFullError,
)
from tasks.files import Files
from tasks.request import parse_request
from tasks.scripts import Scripts
from tasks.settings import Settings
from tasks.submission import Draft, accepted
from tests.transitions.batch_harness import BatchHarness, answers, span


def test_a_batch_runs_from_its_file_to_its_end(batches: BatchHarness) -> None:
    batch = batches.started()
    assert batches.feed(batch, 1, 3) in ("fed", "moved")
    assert len(batches.batches.open_lines(batch.id)) == 3
    assert len(batches.store.list_jobs("ada").jobs) == 3, "each line is one job, however often it is fed"
    with pytest.raises(ConflictError):
        batches.files.delete(batch.input_file_id, "ada")
    good, bad, last = batches.end_jobs(batch)
    assert batches.batches.answer(batch.id, answers([good, last])) == "answered"
    assert batches.batches.answer(batch.id, answers([bad], is_error=True)) == "answered"
    assert batches.batches.end(batch.id).status == "not_ended"
    assert batches.batches.skip(batch, span(4, 1), ['{"line":4}']) in ("skipped", "moved")
    assert batches.counts(batch) == (4, 2, 2)
    assert batches.text(batch.output_file_id) == '{"line":1}\n{"line":3}\n'
    assert batches.text(batch.error_file_id) == '{"line":2}\n{"line":4}\n'
    assert batches.batches.end(batch.id).status == "not_ended", "it was not closed"
    assert batches.batches.close(batch.id, "completed").status == "closed"
    assert batches.batches.end(batch.id).status == "ended"
    done = batches.batches.get(batch.id)
    assert done.status == "completed"
    assert (done.prompt_tokens, done.completion_tokens) == (9, 6)
    assert done.times.keys() == {"in_progress", "finalizing", "completed"}
    assert batches.redis.zcard(keys.BATCH_TURNS) == 0
    assert batches.store.list_jobs("ada").jobs == []
    Files(batches.scripts).delete(batch.input_file_id, "ada")


def test_lines_that_were_taken_become_no_jobs_again(batches: BatchHarness) -> None:
    batch = batches.started()
    batches.feed(batch, 1, 2)
    assert batches.feed(batch, 1, 1) == "moved"
    assert batches.batches.skip(batch, span(1, 1), ["x"]) == "moved"
    assert len(batches.store.list_jobs("ada").jobs) == 2
    assert batches.counts(batch) == (4, 0, 0)


def test_an_answered_line_gets_no_other_answer(batches: BatchHarness) -> None:
    batch = batches.started()
    batches.feed(batch, 1, 2)
    lines = batches.end_jobs(batch)
    batches.batches.answer(batch.id, answers(lines))
    batches.batches.answer(batch.id, answers(lines, is_error=True))
    assert batches.counts(batch) == (4, 2, 0)


def test_an_answer_removes_no_job_that_still_runs(batches: BatchHarness) -> None:
    batch = batches.started()
    batches.feed(batch, 1)
    [line] = batches.batches.open_lines(batch.id)
    assert not line.is_ended
    batches.batches.answer(batch.id, answers([line]))
    assert not batches.store.get(line.job_ids[0]).is_ended


def test_a_line_that_has_no_room_changes_nothing(batches: BatchHarness, redis: Redis) -> None:
    batch = batches.started()
    for _ in range(4):
        batches.submit(owner="bob")
    full = Settings.model_validate(batches.settings.model_dump() | {"max_queued_jobs": 2})
    narrow = Batches(Scripts(redis, full, batches.send_offers))
    request = accepted(parse_request({"prompt": "x"}), batches.settings)
    lines = [FedLine(1, "1", [Draft.of(request)]), FedLine(2, "2", [Draft.of(request)])]
    with pytest.raises(QueueFullError):
        narrow.feed(batch, span(1, 2), lines)
    assert batches.batches.get(batch.id).offset == 0
    assert batches.batches.open_lines(batch.id) == []
    with pytest.raises(InvalidRequestError):
        batches.feed(batch, 1, n=5)
    with pytest.raises(InvalidRequestError):
        batches.feed(batch, 1, model="nobody")


def test_a_cancelled_batch_takes_no_more_jobs(batches: BatchHarness) -> None:
    batch = batches.started()
    batches.feed(batch, 1, 2)
    assert batches.batches.cancel(batch.id, "ada").status == "cancelling"
    with pytest.raises(BatchNotFoundError):
        batches.batches.cancel(batch.id, "bob")
    assert batches.feed(batches.batches.get(batch.id), 3) == "closed"
    lines = batches.end_jobs(batch)
    batches.batches.answer(batch.id, answers(lines, is_error=True))
    batches.batches.skip(batches.batches.get(batch.id), span(3, 2), ["x", "y"])
    assert batches.batches.end(batch.id).status == "ended"
    assert batches.counts(batch) == (4, 0, 4)
    done = batches.batches.cancel(batch.id, "ada")
    assert done.status == "cancelled"
    assert done.output_file_id is None, "an empty file is removed"
    assert done.error_file_id is not None


def test_a_batch_that_has_ended_cannot_be_cancelled(batches: BatchHarness) -> None:
    batch = batches.create()
    batches.batches.start(batch.id, 0, None, [BatchError("empty_file", "it is empty")])
    batches.batches.end(batch.id)
    assert batches.batches.get(batch.id).errors[0]["code"] == "empty_file"
    with pytest.raises(ConflictError):
        batches.batches.cancel(batch.id, "ada")
    assert batches.batches.get(batch.id).status == "failed"


def test_a_batch_that_is_cancelled_before_it_runs_ends_without_lines(batches: BatchHarness) -> None:
    batch = batches.create()
    batches.batches.cancel(batch.id, "ada")
    batches.batches.start(batch.id, 4, "m", [])
    assert batches.batches.get(batch.id).status == "cancelling"
    assert batches.batches.end(batch.id).status == "ended"
    assert batches.batches.get(batch.id).status == "cancelled"


def test_damage_ends_a_batch_that_was_closed_in_another_way(batches: BatchHarness) -> None:
    batch = batches.started()
    batches.batches.cancel(batch.id, "ada")
    batches.batches.close(batch.id, "failed", [BatchError("damaged", "gone")])
    assert batches.batches.skip(batch, span(1, 4), ["x"] * 4) == "gone"
    assert batches.batches.end(batch.id).status == "ended"
    assert batches.batches.get(batch.id).status == "failed"


@pytest.mark.parametrize("part", ["content", "file"])
def test_answers_are_not_written_to_a_damaged_file(batches: BatchHarness, part: str) -> None:
    batch = batches.started()
    batches.feed(batch, 1, 2)
    first, second = batches.end_jobs(batch)
    batches.batches.answer(batch.id, answers([first]))
    batches.redis.delete(getattr(keys, part)(batch.output_file_id))
    assert batches.batches.answer(batch.id, answers([second])) == "damaged"
    assert batches.batches.skip(batch, span(3, 1), ["x"]) == "damaged"
    assert [line.number for line in batches.batches.open_lines(batch.id)] == [2]
    if part == "content":
        with pytest.raises(FileDamagedError):
            batches.text(batch.output_file_id)


def test_a_file_grows_up_to_its_limit(batches: BatchHarness) -> None:
    batch = batches.started()
    batches.feed(batch, 1, 3)
    lines = batches.end_jobs(batch)
    texts = answers(lines)
    two_lines = sum(len(each.text) + 1 for each in texts[:2])
    limited = Batches(batches.scripts, longest_file=two_lines)
    assert limited.answer(batch.id, texts) == "too_long"
    assert batches.batches.open_lines(batch.id) == lines, "nothing was written, so nothing is lost"
    assert limited.answer(batch.id, texts[:2]) == "answered"
    assert limited.answer(batch.id, texts[2:]) == "too_long"
    assert limited.skip(batch, span(4, 1), ["x" * two_lines]) == "too_long"
    assert batches.counts(batch) == (4, 2, 0)


def test_missing_answers_are_noticed_at_the_end(batches: BatchHarness) -> None:
    batch = batches.started()
    batches.feed(batch, 1, 4)
    batches.redis.delete(f"{keys.PREFIX}batch_lines:{batch.id}")
    batches.batches.close(batch.id, "completed")
    answer = batches.batches.end(batch.id)
    assert (answer.status, answer["counted"], answer["total"]) == ("incomplete", 0, 4)


def test_a_turn_is_one_callers_until_it_is_over(redis: Redis, settings: Settings) -> None:
    batches = BatchHarness(redis, settings, Scripts)
    batch = batches.create()
    assert batches.batches.take().batch_ids == [batch.id]
    turn = batches.batches.take()
    assert turn.batch_ids == []
    assert turn.due_in is not None
    assert 0 < turn.due_in <= 5
    batches.batches.rest(batch.id, 0)
    assert batches.batches.take().batch_ids == [batch.id]
    redis.zadd(keys.BATCH_TURNS, {batch.id: 0})
    assert batches.batches.take().batch_ids == [batch.id]


def test_a_batch_expires_at_the_end_of_its_window(batches: BatchHarness) -> None:
    batch = batches.started()
    batches.redis.hset(keys.batch(batch.id), "expires_at", 0)
    batches.batches.rest(batch.id, 0)
    batches.batches.take()
    assert batches.batches.get(batch.id).outcome == "expired"
    assert batches.feed(batch, 1) == "closed"


def test_a_batch_without_its_record_is_reported(redis: Redis, settings: Settings) -> None:
    batches = BatchHarness(redis, settings, Scripts)
    gone, damaged = batches.create(), batches.create()
    redis.delete(keys.batch(gone.id))
    redis.hdel(keys.batch(damaged.id), "offset")
    assert sorted(batches.batches.take().lost) == sorted([gone.id, damaged.id])
    assert redis.zcard(keys.BATCH_TURNS) == 0


def test_the_same_key_leads_to_the_same_batch(batches: BatchHarness) -> None:
    file = batches.file()
    first = batches.create(file, idempotency_key="k")
    assert batches.create(file, idempotency_key="k") == first
    with pytest.raises(IdempotencyConflictError):
        batches.create(file, idempotency_key="k", hours=1)
    assert batches.create(batches.file(owner="bob"), owner="bob", idempotency_key="k") != first


def test_only_an_owners_own_files_make_a_batch(batches: BatchHarness) -> None:
    with pytest.raises(NoSuchFileError):
        batches.create(batches.file(owner="bob"))
    batch = batches.started()
    batches.batches.skip(batch, span(1, 4), ["x"] * 4)
    batches.batches.close(batch.id, "completed")
    batches.batches.end(batch.id)
    with pytest.raises(InvalidRequestError):
        batches.create(batches.files.get(str(batch.error_file_id)))


def test_a_batchs_files_are_kept_from_its_end_on(batches: BatchHarness, redis: Redis) -> None:
    """Its input file is kept while it may run."""
    batch = batches.create(batches.file(seconds=60), output_seconds=3600)
    held = batches.files.get(batch.input_file_id)
    assert held.expires_at is not None
    assert held.expires_at > batch.expires_at
    batches.batches.start(batch.id, 4, "m", [])
    batch = batches.batches.get(batch.id)
    assert batches.files.get(str(batch.error_file_id)).expires_at is None
    batches.batches.skip(batch, span(1, 4), ["x"] * 4)
    batches.batches.close(batch.id, "completed")
    batches.batches.end(batch.id)
    assert batches.files.get(str(batch.error_file_id)).expires_at == pytest.approx(batch.created_at + 3600)
    for index in ("file_expiry", "batch_expiry"):
        for member in redis.zrange(keys.PREFIX + index, 0, -1):
            redis.zadd(keys.PREFIX + index, {str(member): 0})
    batches.batches.take()
    left = [key for key in redis.keys("*") if "file" in key or "batch" in key]
    assert left == []
    assert redis.hgetall(keys.PREFIX + "bytes") == {}


def test_answers_are_written_to_a_full_redis(batches: BatchHarness, redis: Redis) -> None:
    batch = batches.started()
    batches.feed(batch, 1)
    lines = batches.end_jobs(batch)
    redis.config_set("maxmemory", 1)
    assert batches.batches.answer(batch.id, answers(lines)) == "answered"
    batches.batches.close(batch.id, "failed")
    assert batches.batches.end(batch.id).status == "ended"
    assert json.loads(batches.text(batch.output_file_id)) == {"line": 1}
