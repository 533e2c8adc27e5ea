"""No worker is alive: the web processes end jobs at their deadlines and on request."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from client import Client
from harness.product import Web
from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks.store import Store
from tests.integration.conftest import ECHO, StartWorkers, Submit
from tests.integration.jobs import started

LONG: dict[str, Any] = {"max_tokens": 3000}
JOB_TIMEOUT_SECONDS = 6.0
"""Longer than a lease, so that the job goes back to the line before it times out."""


@pytest.fixture
def orphaned(
    start_echo_workers: StartWorkers, store: Store, submit: Submit, redis_url: str, tmp_path: Path
) -> Iterator[tuple[Client, str]]:
    """A web server without workers, and a job that the last worker was running when it was killed."""
    web = Web(redis_url, tmp_path, {"LEASE_SECONDS": ECHO["LEASE_SECONDS"]})
    with ExitStack() as stack:
        with start_echo_workers("last") as (worker,):
            stack.enter_context(web.started())
            job_id = submit("a b", timeout=JOB_TIMEOUT_SECONDS, **LONG)
            started(store, job_id, tokens=2)
            worker.signal(signal.SIGKILL)
            worker.wait()
        yield stack.enter_context(Client(web.url)), job_id


@pytest.mark.parametrize("moment", ["its lease still runs", "it waits in line again"])
def test_a_job_between_two_attempts_can_be_cancelled(
    orphaned: tuple[Client, str], store: Store, moment: str
) -> None:
    client, job_id = orphaned
    if moment == "it waits in line again":
        eventually(lambda: store.get(job_id).attempts[0].reason == "lease expired")
    client.cancel(job_id)
    job = client.wait(job_id, timeout=TIMEOUT_SECONDS)
    assert job.status == "cancelled"
    assert job.text.startswith("a b")
    assert [choice["finish_reason"] for choice in job.fields["output"]] == ["cancelled"]
    assert list(client.stream(job_id))[-1]["type"] == "done"


def test_deadlines_end_jobs(orphaned: tuple[Client, str]) -> None:
    """The interrupted job has a timeout; the job that never ran has an expires_in."""
    client, interrupted = orphaned
    waiting = client.submit("never", expires_in=0.5, **LONG)
    expired = client.wait(waiting.id, timeout=TIMEOUT_SECONDS)
    assert (expired.status, expired.fields["error"]["code"]) == ("expired", "expired")
    timed_out = client.wait(interrupted, timeout=TIMEOUT_SECONDS)
    assert (timed_out.status, timed_out.fields["error"]["code"]) == ("failed", "timeout")
    assert timed_out.text.startswith("a b"), "the partial text is kept"
    assert len(timed_out.fields["attempts"]) == 1
