"""`make serve` with the echo engine: it starts, recovers, keeps jobs, stops, and says why it cannot start."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.waiting import TIMEOUT_SECONDS, eventually
from tests.integration.serve_harness import Serve, is_alive, launch, none_alive, refusal, serve
from tests.integration.web_harness import submit


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def running(data_dir: Path) -> Iterator[Serve]:
    with serve(data_dir, ECHO_STEP_SECONDS="0.01") as ready:
        yield ready


def finished(url: str, job_id: str) -> dict[str, Any]:
    """Returns the job when it has ended."""

    def ended() -> dict[str, Any] | None:
        try:
            job: dict[str, Any] = httpx.get(f"{url}/v1/jobs/{job_id}?wait=5", timeout=TIMEOUT_SECONDS).json()
        except httpx.TransportError:
            return None
        return job if job.get("ended_at") else None

    return eventually(ended) or {}


def started(url: str, **options: Any) -> str:
    """Submits a job, and returns its id when it has tokens."""
    with httpx.Client(base_url=url) as client:
        job_id = submit(client, "tick tock", **options)
        eventually(lambda: client.get(f"/v1/jobs/{job_id}").json()["output"][0]["text"] != "")
    return job_id


def test_a_job_runs(running: Serve) -> None:
    with httpx.Client(base_url=running.url) as client:
        job = finished(running.url, submit(client, "once upon a time", max_tokens=4))
    assert job["output"][0]["text"] == "once upon a time"


def test_the_command_in_the_ready_line_runs_a_job(running: Serve) -> None:
    lines = [line for line in running.output.splitlines() if line.startswith("ready:")]
    assert len(lines) == 1
    assert f"{running.url}/ " in lines[0]
    command = shlex.split(lines[0].partition("try: ")[2])
    answer = subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=True)
    job = json.loads(answer.stdout)
    assert (job["object"], job["status"]) == ("job", "completed")
    assert job["output"][0]["text"].startswith("Once upon a time")


def test_echo_needs_none_of_the_model_libraries(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("torch", "transformers", "tokenizers", "safetensors", "numpy"):
        (blocked / f"{name}.py").write_text(f"raise ModuleNotFoundError('blocked by a test', name='{name}')")
    with (
        serve(tmp_path / "data", PYTHONPATH=str(blocked)) as running,
        httpx.Client(base_url=running.url) as client,
    ):
        assert finished(running.url, submit(client))["status"] == "completed"


def test_every_line_names_its_process(running: Serve) -> None:
    strangers = [
        line
        for line in running.output.splitlines()
        if not re.match(r"(serve|redis|web|worker) *\| |ready: ", line)
    ]
    assert strangers == []


@pytest.mark.parametrize("name", ["redis", "web", "worker"])
def test_a_process_that_is_killed_comes_back(running: Serve, name: str) -> None:
    job_id = started(running.url, max_tokens=300)
    killed = running.pid(name)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: running.pid(name) != killed)
    eventually(running.is_ready)
    job = finished(running.url, job_id)
    assert job["status"] == "completed"
    assert job["output"][0]["text"].split() == ["tick", "tock"] * 150


def test_redis_listens_on_loopback_with_a_private_password(running: Serve, data_dir: Path) -> None:
    url = httpx.URL((data_dir / "redis.url").read_text())
    with socket.create_connection((url.host, url.port or 0)) as client:
        client.sendall(b"PING\r\n")
        assert client.recv(100).startswith(b"-NOAUTH")
    assert url.host == "127.0.0.1"
    assert url.password not in running.output
    assert not any(
        stat.S_IMODE((data_dir / name).stat().st_mode) & 0o077 for name in ("redis.url", "redis.conf")
    )


def test_a_second_one_with_the_same_data_dir_is_refused(running: Serve, data_dir: Path) -> None:
    said = refusal(data_dir)
    assert said == f"serve: DATA_DIR={data_dir}: is in use by another server; set another DATA_DIR\n"
    assert running.is_ready()


def test_two_installations_share_a_machine(running: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "other") as other, httpx.Client(base_url=other.url) as client:
        job_id = submit(client)
        assert finished(other.url, job_id)["status"] == "completed"
        assert httpx.get(f"{running.url}/v1/jobs/{job_id}").status_code == 404


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(tmp_path, PORT=str(port))
    assert (
        said
        == f"serve: PORT={port}: cannot listen on HOST=127.0.0.1: Address already in use; set another PORT\n"
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "none"),
        ("ENGINE", "steam"),
        ("HOST", "0.0.0.0"),
        ("REDIS_URL", "redis://127.0.0.1:1"),
        ("REDIS_URL", "http://redis"),
        ("DATA_DIR", "/dev/null/data"),
    ],
)
def test_a_bad_variable_is_named_in_one_line(tmp_path: Path, variable: str, value: str) -> None:
    said = refusal(tmp_path, **{variable: value})
    assert said.startswith("serve: ")
    assert said.count("\n") == 1
    assert variable in said


def test_a_misspelt_setting_is_named_in_one_line(tmp_path: Path) -> None:
    said = refusal(tmp_path, MAKE_VARIABLES="ENGINE PROT")
    assert said == "serve: PROT: there is no such setting; did you mean PORT?\n"


def test_a_password_in_the_redis_url_is_not_shown(tmp_path: Path) -> None:
    assert "secret" not in refusal(tmp_path, REDIS_URL="redis://:secret@127.0.0.1:1/0")


def test_a_missing_model_is_named_before_anything_starts(tmp_path: Path) -> None:
    said = refusal(tmp_path, ENGINE="transformers", MODEL_ID="./nowhere")
    assert said == "serve: MODEL_ID=./nowhere: there is no model in this folder (no config.json)\n"


def test_a_process_that_cannot_start_ends_the_start_with_its_last_line(tmp_path: Path) -> None:
    said = refusal(tmp_path, GUNICORN_CMD_ARGS="--steam")
    *before, last = said.splitlines()
    assert last.startswith("serve: web ended before it was ready: ")
    assert "--steam" in last
    assert any(line.startswith("serve  | stopped: redis") for line in before)


def test_with_redis_url_no_redis_is_started(tmp_path: Path, redis_url: str) -> None:
    with serve(tmp_path, REDIS_URL=redis_url) as running, httpx.Client(base_url=running.url) as client:
        assert finished(running.url, submit(client))["status"] == "completed"
        assert "spawned: 'redis'" not in running.output
    assert not (tmp_path / "appendonly.aof").exists()


def test_accepted_jobs_outlive_a_restart_of_everything(tmp_path: Path) -> None:
    with serve(tmp_path) as first:
        job_id = started(first.url, max_tokens=400)
        with httpx.Client(base_url=first.url) as client:
            waiting = submit(client, "later", max_tokens=2)
        assert first.stop() == 0
        assert none_alive(first.all_pids())
    with serve(tmp_path) as second:
        assert finished(second.url, job_id)["output"][0]["text"].split() == ["tick", "tock"] * 200
        assert finished(second.url, waiting)["output"][0]["text"] == "later later"


def test_a_killed_one_leaves_nothing_that_hinders_the_next(tmp_path: Path) -> None:
    port = ""
    with serve(tmp_path) as first:
        job_id = started(first.url, max_tokens=400)
        port = first.url.rpartition(":")[2]
        first.process.kill()
        first.process.wait()
        eventually(lambda: none_alive(first.all_pids()))
    with serve(tmp_path, PORT=port) as second:
        assert finished(second.url, job_id)["output"][0]["text"].split() == ["tick", "tock"] * 200


def test_it_keeps_running_when_nobody_reads_its_output(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    serving = launch(tmp_path, {}, output=writing)
    os.close(writing)
    os.close(reading)
    eventually(serving.is_ready)
    assert finished(serving.url, started(serving.url, max_tokens=2))["status"] == "completed"
    assert serving.stop() == 0


def test_a_worker_drains_before_the_web_stops(tmp_path: Path) -> None:
    with serve(tmp_path, DRAIN_SECONDS="600") as running:
        job_id = started(running.url, max_tokens=300)  # Six seconds.
        running.process.send_signal(signal.SIGINT)
        assert finished(running.url, job_id)["status"] == "completed"
        assert running.process.wait(TIMEOUT_SECONDS) == 0
    waits = [line.partition(" | ")[2] for line in running.output.splitlines() if "waiting for" in line]
    assert waits[0] == "waiting for redis, web, worker to end; Ctrl-C again stops at once"
    assert len(set(waits)) == len(waits), "each is printed once"


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    serving = launch(tmp_path, {"DRAIN_SECONDS": "600"})
    try:
        eventually(serving.has_announced)
        started(serving.url, max_tokens=4000)
        serving.process.send_signal(signal.SIGINT)
        eventually(lambda: "Warm shutdown" in serving.output)

        def stops_at_once() -> bool:
            serving.process.send_signal(signal.SIGINT)
            return "worker stops at once" in serving.output

        eventually(stops_at_once)
        assert serving.process.wait(TIMEOUT_SECONDS) == 0
        assert none_alive(serving.all_pids())
    finally:
        for pid in [serving.process.pid, *serving.all_pids()]:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        serving.process.wait()
