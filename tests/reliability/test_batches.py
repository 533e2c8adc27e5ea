"""A worker, the web server and Redis die while a batch runs. Each line is answered exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from client import Client
from harness.waiting import TIMEOUT_SECONDS
from tests.chaos.fleet import Fleet
from tests.integration.batch_harness import (
    assert_answered_once,
    completed,
    create,
    ended,
    line,
    read_lines,
    until,
)
from tests.integration.jobs import words

LINES, TOKENS = 1000, 8
SETTINGS = {
    "API_KEYS": "ada:key-a,bob:key-b",
    "ECHO_STEP_SECONDS": "0.01",
    "LEASE_SECONDS": "2",
    "BATCH_WINDOW": "128",
}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path, 2, SETTINGS)
    yield running
    running.stop()


class Run:
    """A batch of ada's, read while it runs. `lines`: those of its output that were read so far."""

    def __init__(self, fleet: Fleet, sdk: OpenAI) -> None:
        self._fleet = fleet
        self._sdk = sdk
        self.prompts = {str(number): words(f"l{number}", TOKENS) for number in range(LINES)}
        bodies = [line(each, prompt=prompt, max_tokens=TOKENS) for each, prompt in self.prompts.items()]
        self.id = create(sdk, bodies).id
        self.lines: list[dict[str, object]] = []

    def wait_for(self, lines: int) -> None:
        """Waits until this number of lines is done, and reads those that are new."""
        batch = until(self._sdk, self.id, lambda batch: completed(batch) >= lines)
        assert batch.status == "in_progress"
        assert batch.output_file_id is not None
        answer = self._sdk.files.with_raw_response.content(
            batch.output_file_id, extra_query={"offset": len(self.lines)}
        )
        assert answer.headers["X-Incomplete"] == "true"
        self.read(batch.output_file_id)
        assert int(answer.headers["X-Last-Line"]) >= lines

    def read(self, file_id: str) -> None:
        """Reads the lines of the output that were not read before."""
        self.lines += read_lines(self._sdk, file_id, extra_query={"offset": len(self.lines)})

    def assert_that_others_come_first(self) -> None:
        """Checks that usual jobs, bob's and ada's own, wait for none of the batch's jobs in line."""
        for key in ("key-b", "key-a"):
            with Client(self._fleet.web.url, api_key=key) as client:
                job = client.get(client.submit("once upon a time", max_tokens=4).id)
                assert job.fields["queue_position"] in (None, 0)
                assert client.wait(job.id, timeout=TIMEOUT_SECONDS).status == "completed"
        assert self._sdk.batches.retrieve(self.id).status == "in_progress"


def test_each_line_is_answered_once_whatever_dies(fleet: Fleet) -> None:
    with OpenAI(base_url=f"{fleet.web.url}/v1", api_key="key-a", timeout=TIMEOUT_SECONDS) as sdk:
        run = Run(fleet, sdk)
        run.wait_for(50)
        run.assert_that_others_come_first()
        fleet.kill_worker(0)
        run.wait_for(200)
        run.assert_that_others_come_first()
        fleet.kill_web()
        fleet.start_web()
        run.wait_for(350)
        fleet.kill_redis()
        fleet.start_redis()
        run.wait_for(500)
        run.assert_that_others_come_first()

        batch = ended(sdk, run.id, timeout=2 * TIMEOUT_SECONDS)
        assert batch.status == "completed"
        assert_answered_once(sdk, batch, run.prompts)
        assert batch.request_counts is not None
        assert batch.request_counts.failed == 0
        assert batch.output_file_id is not None
        run.read(batch.output_file_id)
        whole = read_lines(sdk, batch.output_file_id)
        assert run.lines == whole, "what was read in parts is the whole file"
        texts = {each["custom_id"]: each["response"]["body"]["choices"][0]["text"] for each in whole}
        assert texts == run.prompts
