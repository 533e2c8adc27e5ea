"""The client's commands without an answer of the server, after a refusal, and after an interrupt."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path

import pytest

from harness.product import Web
from harness.waiting import TIMEOUT_SECONDS
from harness.workers import ROOT
from tests.integration.cli_harness import command, first_line, run
from tests.integration.scripted_server import JOB, SILENT, Answer, scripted_server

pytest_plugins = ["tests.integration.product_fixtures"]


def test_a_server_that_cannot_be_reached_is_reported_while_the_command_retries(product: Web) -> None:
    product.kill()
    with command(product.url, "submit", "hello", "--max-tokens", "1") as process:
        for _ in range(2):
            line = first_line(process)
            assert line.startswith(product.url)
            assert line.endswith(" (is the server running?); trying again\n")
        product.start()
        printed, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, printed) == (0, "hello\n")


@pytest.mark.parametrize(
    "arguments", [("submit", "hello"), ("watch", "job_1"), ("jobs",), ("cancel", "job_1")]
)
def test_a_server_that_takes_the_call_and_stays_silent_is_reported(arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with command(url, *arguments) as process:
            assert first_line(process) == f"{url}: no answer yet; waiting\n"
            process.kill()


def test_an_interrupt_that_the_server_does_not_answer_says_what_it_waits_for() -> None:
    """The notice about the call before is not repeated, and a second interrupt ends the command."""
    job: Answer = (200, {}, json.dumps(JOB).encode())
    silent = dict.fromkeys(("/stream", "/job_1", "/cancel"), SILENT)
    with (
        scripted_server(job, fixed=silent) as server,
        command(server.url, "submit", "hello") as process,
    ):
        assert first_line(process) == f"{server.url}: no answer yet; waiting\n"
        process.send_signal(signal.SIGINT)
        said = "no answer to the cancel of job_1 yet; waiting, Ctrl-C ends this command"
        assert first_line(process) == f"{server.url}: {said}\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 1


@pytest.mark.parametrize(("arguments", "code"), [(("tokenrelay", "jobs"), 1), (("deploy",), 0)])
def test_an_interrupt_while_python_imports_is_no_traceback(
    tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    (tmp_path / "httpx.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")


REFUSALS = [401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504]
NOT_NOW = {"Retry-After": "3600"}
"""A header that asks for a longer wait than the command's time for retries."""


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "hello"),
        ("submit", "hello", "--detach"),
        ("watch", "job_1"),
        ("jobs",),
        ("cancel", "job_1"),
    ],
)
def test_every_refusal_is_one_line(arguments: tuple[str, ...], status: int) -> None:
    hint = "; --api-key or TOKENRELAY_API_KEY names the key" if status == 401 else ""
    with scripted_server((status, NOT_NOW), (status, NOT_NOW, b"<html>")) as server:
        assert run(server.url, *arguments) == (1, "", f"busy, come later{hint}\n")
        assert run(server.url, *arguments) == (1, "", f"HTTP {status} {HTTPStatus(status).phrase}{hint}\n")


@pytest.mark.parametrize("status", REFUSALS)
def test_every_refusal_of_the_stream_is_one_line(status: int) -> None:
    job: Answer = (200, {}, json.dumps(JOB).encode())
    cancelled: Answer = (200, {}, json.dumps(JOB | {"status": "cancelled"}).encode())
    with (
        scripted_server(job, fixed={"/stream": (status, {}), "/job_1": job, "/cancel": cancelled}) as server,
        command(server.url, "submit", "hello") as process,
    ):
        line = first_line(process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_SECONDS)
    hint = "; --api-key or TOKENRELAY_API_KEY names the key\n" if status == 401 else "\n"
    assert line.removesuffix("; trying again\n").removesuffix(hint).endswith("busy, come later")
    assert line.endswith("; trying again\n") == (status in (408, 429, 500, 502, 503, 504))
