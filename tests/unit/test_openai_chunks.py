"""Chunks of plain tokens, which are not parsed, are those that parsing would give."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.log import TokenEntry
from tasks.request import JobRequest
from tasks.submission import Draft
from web.openai.chunks import ChatChunks, Chunks, TextChunks
from web.relay.events import Batch, Event

TOOL = {"type": "function", "function": {"name": "f"}}


def chunks_of(kind: type[Chunks], **options: Any) -> Chunks:
    request = JobRequest.model_validate({"messages": [{"role": "user", "content": "x"}], "n": 3, **options})
    job = Draft.of(request.model_dump(mode="json", exclude_none=True) | {"model": "m"}).job(
        "job_a", "ada", 5.0
    )
    return kind(job, first=job, place=2, includes_usage=True)


@pytest.mark.parametrize("kind", [ChatChunks, TextChunks])
@given(text=st.text(), choice=st.integers(0, 2))
def test_a_plain_token_gives_the_chunk_of_a_parsed_one(kind: type[Chunks], text: str, choice: int) -> None:
    encoded = TokenEntry(choice, (7,), text).encode()
    [plain] = Batch(1, [encoded]).events
    parsed = Event(1, encoded)
    assert plain.plain is not None or not text.isascii()
    assert parsed.plain is None
    assert chunks_of(kind).of(plain) == chunks_of(kind).of(parsed)
    assert chunks_of(kind, tools=[TOOL]).of(plain) == chunks_of(kind, tools=[TOOL]).of(parsed)
