"""No process of `make serve` is left after it ended, however and whenever it ends."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from harness.waiting import TIMEOUT_SECONDS, eventually
from tests.integration.serve_harness import Serve, launch
from tests.integration.web_harness import submit

MODEL = {"ENGINE": "transformers", "MODEL_ID": "bundled"}
MOMENTS = {"the first spawn": "supervisord started", "the load": "loading bundled"}
"""A moment of the start -> the text that is printed just before."""

Start = Callable[..., Serve]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `make serve`, at most once. Ends the processes that a failed test has left."""
    yield lambda **variables: launch(tmp_path / "data", variables)
    for process in left_of(tmp_path / "data"):
        process.kill()


def left_of(data_dir: Path) -> list[psutil.Process]:
    """Returns the processes of a `make serve`. They are found by their environment, which they inherit."""
    return [
        process
        for process in psutil.process_iter(["environ", "status"])
        if (process.info["environ"] or {}).get("DATA_DIR") == str(data_dir)
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def told(serving: Serve, words: str) -> None:
    eventually(lambda: words in serving.output)


def with_a_running_job(serving: Serve) -> None:
    eventually(serving.has_announced)
    with httpx.Client(base_url=serving.url) as client:
        job_id = submit(client, "tick tock", max_tokens=4000)
        eventually(lambda: client.get(f"/v1/jobs/{job_id}").json()["output"][0]["text"] != "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stop_during_the_start(start: Start, tmp_path: Path, moment: str, number: int) -> None:
    """The worker does not miss the signal, and stops loading its model."""
    serving = start(**MODEL)
    told(serving, MOMENTS[moment])
    assert serving.stop(number) == 0
    assert left_of(tmp_path / "data") == []
    assert "killing 'worker'" not in serving.output
    assert "serving bundled" not in serving.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_when_it_is_ready(start: Start, tmp_path: Path, number: int) -> None:
    serving = start()
    eventually(serving.has_announced)
    assert serving.stop(number) == 0
    assert left_of(tmp_path / "data") == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_during_the_start(start: Start, tmp_path: Path, moment: str) -> None:
    serving = start(**MODEL)
    told(serving, MOMENTS[moment])
    serving.stop(signal.SIGKILL)
    eventually(lambda: left_of(tmp_path / "data") == [])
    assert "serving bundled" not in serving.output


def test_a_kill_while_jobs_run(start: Start, tmp_path: Path) -> None:
    """Redis ends as well, so the worker cannot drain. Its jobs continue after the next start."""
    serving = start(DRAIN_SECONDS="600")
    with_a_running_job(serving)
    serving.stop(signal.SIGKILL)
    eventually(lambda: left_of(tmp_path / "data") == [])


def test_it_ends_where_make_was_killed_before_it_could_look(start: Start, tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as make:
        make.wait(TIMEOUT_SECONDS)
    serving = start(MAKE_PID=str(make.pid))
    assert serving.process.wait(TIMEOUT_SECONDS) == -signal.SIGTERM
    assert left_of(tmp_path / "data") == []
