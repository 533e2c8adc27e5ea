"""OpenAI's SDK sees the death of a worker as a pause."""

from __future__ import annotations

import signal
from pathlib import Path

from openai import OpenAI

from harness.product import Web
from harness.waiting import TIMEOUT_SECONDS
from tasks.store import Store
from tests.integration.conftest import StartWorkers
from tests.integration.jobs import started, words

TOKENS = 120


def test_a_stream_goes_on_after_its_worker_was_killed(
    start_echo_workers: StartWorkers, redis_url: str, store: Store, tmp_path: Path
) -> None:
    web, prompt = Web(redis_url, tmp_path), words("w", TOKENS)
    with start_echo_workers("w1", "w2") as workers, web.started():
        sdk = OpenAI(base_url=f"{web.url}/v1", api_key="any", max_retries=0, timeout=TIMEOUT_SECONDS)
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
