"""OpenAI's SDK sees the death of a worker as a pause."""

from __future__ import annotations

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from openai import OpenAI

from harness.product import Web
from harness.waiting import TIMEOUT_SECONDS
from tasks.store import Store
from tests.integration.conftest import StartWorkers
from tests.integration.jobs import started, words
from tests.integration.openai_events import Raw, assert_whole, raw_events

TOKENS = 120


def test_a_stream_goes_on_after_its_worker_was_killed(
    start_echo_workers: StartWorkers, redis_url: str, store: Store, tmp_path: Path
) -> None:
    web, prompt = Web(redis_url, tmp_path), words("w", TOKENS)
    with (
        start_echo_workers("w1", "w2") as workers,
        web.started(),
        OpenAI(base_url=f"{web.url}/v1", api_key="any", max_retries=0, timeout=TIMEOUT_SECONDS) as sdk,
    ):
        answer = sdk.chat.completions.with_raw_response.create(
            model="echo", messages=[{"role": "user", "content": prompt}], max_tokens=TOKENS, stream=True
        )
        job_id = answer.headers["X-Job-ID"]
        first = started(store, job_id, tokens=5).attempts[0]
        next(worker for worker in workers if worker.id == first.worker).signal(signal.SIGKILL)
        chunks = list(answer.parse())
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == prompt
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices[0].delta.role] == ["assistant"]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len(store.get(job_id).attempts) == 2


def test_a_response_in_the_background_has_the_events_of_an_undisturbed_one(
    start_echo_workers: StartWorkers, redis_url: str, store: Store, tmp_path: Path
) -> None:
    web, prompt = Web(redis_url, tmp_path), words("w", TOKENS)
    body = {"model": "echo", "input": prompt, "max_output_tokens": TOKENS, "stream": True, "background": True}
    with (
        start_echo_workers("w1", "w2") as workers,
        web.started(),
        httpx.Client(base_url=web.url, timeout=TIMEOUT_SECONDS) as client,
        ThreadPoolExecutor() as pool,
    ):
        undisturbed = raw_events(client.post("/v1/responses", json=body).text)
        with client.stream("POST", "/v1/responses", json=body) as begun:
            job_id = begun.headers["X-Job-ID"]
            first = started(store, job_id, tokens=5).attempts[0]
        # That client has left. Another one resumes the stream, and sees the death of the worker as a pause.
        url = f"/v1/responses/resp_{job_id.removeprefix('job_')}"
        resumed = pool.submit(lambda: client.get(f"{url}?stream=true&starting_after=4").text)
        next(worker for worker in workers if worker.id == first.worker).signal(signal.SIGKILL)
        rest = raw_events(resumed.result(TIMEOUT_SECONDS))
        whole = raw_events(client.get(f"{url}?stream=true").text)
    assert len(store.get(job_id).attempts) == 2
    assert_whole(whole)
    assert whole[5:] == rest
    # A worker may write several tokens in one entry, so the text is split elsewhere.
    assert _without_ids(whole) == _without_ids(undisturbed)


def _without_ids(events: list[Raw]) -> list[Raw]:
    """Returns the events without what differs between equal responses: ids, times, how the text is split."""
    text = json.dumps([{**event, "sequence_number": 0} for event in events if "delta" not in event])
    text = re.sub(r'"(resp|msg)_[0-9a-f]+"', r'"\1"', text)
    found: list[Raw] = json.loads(re.sub(r'"(created_at|completed_at)": [0-9]+', r'"\1": 0', text))
    return [*found, {"text": "".join(event["delta"] for event in events if "delta" in event)}]
