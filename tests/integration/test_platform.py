"""The product without features that only Linux has. No macOS is available, so the tests remove them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from client import Client
from harness.workers import ROOT
from tests.integration.serve_harness import Serve, serve

BARE_PLATFORM = Path(__file__).with_name("bare_platform")
DARWIN_OPEN_MAX = 10_240
"""The value of bare_platform/sitecustomize.py. Importing that module would change this process."""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with serve(
        tmp_path_factory.mktemp("bare"), PYTHONPATH=str(BARE_PLATFORM), ECHO_STEP_SECONDS="0"
    ) as running:
        yield running


def test_jobs_run_and_stream_over_a_websocket(bare: Serve) -> None:
    with Client(bare.url) as client:
        job = client.submit("here and there", max_tokens=3)
        events = list(client.stream(job.id))
    assert "".join(event["text"] for event in events if event["type"] == "token") == "here and there"


def test_the_web_takes_as_many_descriptors_as_it_may_have(bare: Serve) -> None:
    web = psutil.Process(bare.pid("web"))
    assert web.rlimit(psutil.RLIMIT_NOFILE)[0] == DARWIN_OPEN_MAX


def test_windows_is_refused_in_one_line() -> None:
    command = ["make", "--dry-run", "serve"]
    environment = {"PATH": os.environ["PATH"], "OS": "Windows_NT"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Linux" in done.stderr
