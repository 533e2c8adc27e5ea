"""Flower shows jobs as tasks under their ids, and can cancel them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.redis_server import free_port
from harness.waiting import eventually
from harness.workers import ROOT
from tasks.job import Status
from tasks.store import Store
from tests.integration.conftest import StartWorkers, Submit


@pytest.fixture
def flower(redis_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    port = free_port()
    variables = {"REDIS_URL": redis_url, "ENGINE": "echo", "FLOWER_UNAUTHENTICATED_API": "true"}
    command = f"-m celery -A worker.app flower --address=127.0.0.1 --port={port}".split()
    with (tmp_path / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=os.environ | variables, stdout=log, stderr=log
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        eventually(lambda: answers(client))
        yield client
    process.terminate()
    process.wait()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthcheck").is_success
    except httpx.TransportError:
        return False


def test_flower_shows_jobs_and_revokes_them(
    flower: httpx.Client, start_echo_workers: StartWorkers, store: Store, submit: Submit
) -> None:
    def task(job_id: str) -> Any:
        found = flower.get("/api/tasks").json()
        return found.get(job_id, {})

    with start_echo_workers("w1"):
        eventually(lambda: flower.get("/api/workers", params={"refresh": "true"}).json().get("w1@test"))
        running = submit("a b", max_tokens=3000)
        short = submit("a b", max_tokens=2)
        eventually(lambda: task(running).get("state") == "STARTED")
        eventually(lambda: task(short).get("state") == "SUCCESS")
        flower.post(f"/api/task/revoke/{running}", params={"terminate": "true"}).raise_for_status()
        eventually(lambda: store.get(running).status is Status.CANCELLED)
        eventually(lambda: task(running).get("state") == "REVOKED")
        assert running in flower.get(f"/task/{running}").text
