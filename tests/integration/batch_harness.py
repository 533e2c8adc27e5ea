"""Batches with OpenAI's SDK: input files, and what their files say afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from openai import OpenAI
from openai.types import Batch

from harness.waiting import TIMEOUT_SECONDS, eventually

COMPLETIONS: Any = "/v1/completions"
CHAT: Any = "/v1/chat/completions"
RESPONSES: Any = "/v1/responses"


def line(custom_id: str, url: str = COMPLETIONS, **body: Any) -> dict[str, Any]:
    """Returns a line of an input file. Its prompt is its custom_id, unless the body says otherwise."""
    task = {} if url != COMPLETIONS or "prompt" in body else {"prompt": custom_id}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**task, **body}}


def jsonl(lines: Iterable[Any]) -> bytes:
    """Returns an input file. A line that is bytes is taken as it is."""
    encoded = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines]
    return b"".join(each + b"\n" for each in encoded)


def create(sdk: OpenAI, lines: Iterable[Any], endpoint: Any = COMPLETIONS, **options: Any) -> Batch:
    """Uploads lines and makes a batch of them."""
    file = sdk.files.create(file=("input.jsonl", jsonl(lines)), purpose="batch")
    return sdk.batches.create(
        input_file_id=file.id, endpoint=endpoint, **{"completion_window": "24h", **options}
    )


def until(
    sdk: OpenAI, batch_id: str, look: Callable[[Batch], object], timeout: float = TIMEOUT_SECONDS
) -> Batch:
    """Waits until a batch is as `look` wants it."""
    found: list[Batch] = []

    def is_there() -> object:
        found[:] = [sdk.batches.retrieve(batch_id)]
        return look(found[0])

    eventually(is_there, timeout)
    return found[0]


def completed(batch: Batch) -> int:
    """Returns how many lines have completed."""
    assert batch.request_counts is not None
    return batch.request_counts.completed


def ended(sdk: OpenAI, batch_id: str, timeout: float = TIMEOUT_SECONDS) -> Batch:
    final = ("completed", "failed", "cancelled", "expired")
    return until(sdk, batch_id, lambda batch: batch.status in final, timeout)


def read_lines(sdk: OpenAI, file_id: str | None, **options: Any) -> list[dict[str, Any]]:
    """Returns the lines of a batch's file so far; none if there is no such file."""
    if file_id is None:
        return []
    return [json.loads(each) for each in sdk.files.content(file_id, **options).text.splitlines()]


def assert_answered_once(sdk: OpenAI, batch: Batch, custom_ids: Iterable[str]) -> None:
    """Checks that each line has one answer, in one of the two files, and that the counts say so."""
    outputs, errors = read_lines(sdk, batch.output_file_id), read_lines(sdk, batch.error_file_id)
    assert sorted(each["custom_id"] for each in [*outputs, *errors]) == sorted(custom_ids)
    counts = batch.request_counts
    assert counts is not None
    assert (counts.completed, counts.failed) == (len(outputs), len(errors))
    assert counts.total == len(outputs) + len(errors)
    assert all(each["response"]["status_code"] == 200 for each in outputs)
