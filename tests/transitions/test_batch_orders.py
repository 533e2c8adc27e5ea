"""The scripts of batches in any order, called by processes that act on what they read some time ago."""

from __future__ import annotations

import json
import random
from contextlib import suppress

import pytest

from tasks import keys
from tasks.batch import Batch
from tasks.errors import JobNotFoundError
from tests.transitions.batch_harness import LINE_BYTES, BatchHarness, answers, span


@pytest.mark.parametrize("seed", range(40))
def test_each_line_has_one_answer_in_any_order_of_calls(batches: BatchHarness, seed: int) -> None:
    chance = random.Random(seed)
    count = 12
    batch = batches.create(batches.file(b"x" * (count * LINE_BYTES)))
    batches.batches.start(batch.id, count, "m", [])
    seen: list[Batch] = [batches.batches.get(batch.id)]
    open_lines = [batches.batches.open_lines(batch.id)]
    is_closed = False
    for _ in range(200):
        read = chance.choice(seen[-3:])
        lines_left = count - read.next_line
        match chance.choice(["read", "feed", "skip", "end a job", "answer", "cancel", "lose a job"]):
            case "read":
                seen.append(batches.batches.get(batch.id))
                open_lines.append(batches.batches.open_lines(batch.id))
            case "feed" if lines_left:
                batches.feed(read, read.next_line + 1, chance.randint(1, min(3, lines_left)))
            case "skip" if lines_left:
                batches.batches.skip(read, span(read.next_line + 1, 1), [f'{{"line":{read.next_line + 1}}}'])
            case "end a job":
                for line in batches.batches.open_lines(batch.id)[:1]:
                    with suppress(JobNotFoundError):
                        batches.store.cancel(line.job_ids[0])
            case "lose a job":
                for line in chance.choice(open_lines)[:1]:
                    batches.redis.delete(keys.job(line.job_ids[0]))
            case "answer":
                ended = [line for line in chance.choice(open_lines[-3:]) if line.is_ended]
                batches.batches.answer(batch.id, answers(ended, is_error=chance.random() < 0.5))
            case "cancel" if chance.random() < 0.05:
                batches.batches.cancel(batch.id, "ada")
                is_closed = True
        assert len(batches.store.list_jobs("ada", limit=100).jobs) <= count

    batch = batches.batches.get(batch.id)
    for number in range(batch.next_line + 1, count + 1):
        batches.batches.skip(batches.batches.get(batch.id), span(number, 1), [f'{{"line":{number}}}'])
    batches.batches.answer(batch.id, answers(batches.end_jobs(batch)))
    if not is_closed:
        batches.batches.close(batch.id, "completed")
    assert batches.batches.end(batch.id).status == "ended"
    batch = batches.batches.get(batch.id)
    texts = [batches.text(file_id) for file_id in (batch.output_file_id, batch.error_file_id) if file_id]
    numbers = [json.loads(line)["line"] for text in texts for line in text.splitlines()]
    assert sorted(numbers) == list(range(1, count + 1))
    assert batch.completed + batch.failed == count
