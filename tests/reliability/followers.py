"""Jobs with readers that must see every event exactly once, whatever happens to Redis."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx

from client import Client, Event
from client.job import Job
from harness.waiting import TIMEOUT_SECONDS, eventually
from tests.chaos.fleet import Fleet
from tests.integration.jobs import words
from tests.integration.web_sockets import assert_gapless, sse_events, texts


class Followed:
    """A job with two readers, which read it from its first event on.

    The client library reconnects when it has to, and hides repeated events. The bare reader has one
    connection and hides nothing.
    """

    def __init__(self, client: Client, url: str, prompt: str, **options: Any) -> None:
        self.prompt = prompt
        self.id = client.submit(prompt, max_tokens=len(prompt.split()), **options).id
        self.library: list[Event] = []
        self.bare: list[Event] = []
        self._client = client
        self._url = f"{url}/v1/jobs/{self.id}/events"
        pool = ThreadPoolExecutor(2)
        self.readers: list[Future[None]] = [pool.submit(self._read_library), pool.submit(self._read_bare)]
        pool.shutdown(wait=False)

    @property
    def seen(self) -> int:
        """The number of tokens that both readers have. After a pause, several tokens come in one event."""
        return min(len(texts(list(events)).split()) for events in (self.library, self.bare))

    def job(self) -> Job:
        return self._client.get(self.id)

    def assert_whole(self) -> Job:
        """Checks that the job completed in its first attempt and both readers got each event once."""
        job = self.ended_whole()
        assert [attempt["reason"] for attempt in job.fields["attempts"]] == [None]
        return job

    def ended_whole(self) -> Job:
        """Checks that the job completed and both readers got each event once, in any number of attempts."""
        for reader in self.readers:
            reader.result(2 * TIMEOUT_SECONDS)
        job = self.job()
        attempts = [attempt["number"] for attempt in job.fields["attempts"]]
        for events in (self.library, self.bare):
            assert_gapless(events)
            assert texts(events) == self.prompt
            starts = [event["attempt"] for event in events if event["type"] == "status"]
            assert starts == attempts, job.fields
            assert (events[-1]["type"], events[-1]["status"]) == ("done", "completed")
        assert job.text == self.prompt
        return job

    def _read_library(self) -> None:
        for event in self._client.stream(self.id):
            self.library.append(event)

    def _read_bare(self) -> None:
        with httpx.stream("GET", self._url, timeout=2 * TIMEOUT_SECONDS) as answer:
            lines = (line for line in answer.iter_lines() if not line.startswith(":"))
            for event in sse_events(lines):
                self.bare.append(event)


@contextmanager
def following(url: str, jobs: int, tokens: int, seen: int = 5) -> Iterator[list[Followed]]:
    """Submits jobs, and yields them when the readers of each one have `seen` tokens."""
    with Client(url) as client:
        followed = [Followed(client, url, words(f"f{i}", tokens)) for i in range(jobs)]
        wait_until_seen(followed, seen)
        yield followed


def wait_until_seen(followed: list[Followed], seen: int) -> None:
    eventually(lambda: all(one.seen >= seen for one in followed))


def assert_all_work(fleet: Fleet, slots: int) -> None:
    """Checks that no worker died, and that each takes jobs again as soon as Celery has reconnected."""
    assert [worker.process.poll() for worker in fleet.workers] == [None] * len(fleet.workers)
    with Client(fleet.web.url) as client:
        eventually(
            lambda: _busy(client, slots * len(fleet.workers)) >= {worker.id for worker in fleet.workers}
        )


def _busy(client: Client, jobs: int) -> set[str]:
    """Runs short jobs and returns the workers that ran them."""
    prompts = [words(f"more{i}", 20) for i in range(jobs)]
    ids = [client.submit(prompt, max_tokens=20).id for prompt in prompts]
    ended = [client.wait(job_id, timeout=2 * TIMEOUT_SECONDS) for job_id in ids]
    assert [job.text for job in ended] == prompts
    return {attempt["worker"] for job in ended for attempt in job.fields["attempts"]}
