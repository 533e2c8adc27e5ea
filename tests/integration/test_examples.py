"""The examples run as their comments say, against the whole product."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.product import Web
from harness.redis_server import free_port
from harness.waiting import TIMEOUT_SECONDS, eventually
from harness.workers import ROOT

pytest_plugins = ["tests.integration.package_fixtures", "tests.integration.product_fixtures"]

EXAMPLES = ROOT / "examples"


def environment(product: Web) -> dict[str, str]:
    """What examples/README.md tells to set."""
    own = {"TOKENRELAY_URL": product.url, "REDIS_URL": product.redis_url}
    return os.environ | own | {"ENGINE": "echo", "PYTHONUNBUFFERED": "1"}


def output(product: Web, *command: str | Path) -> list[str]:
    """The lines that an example prints."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(product),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@contextmanager
def serving(product: Web, log: Path, path: str, port: int, *command: str | Path) -> Iterator[httpx.Client]:
    """A client of an example that serves HTTP on `port`, once `path` answers."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(product), stdout=file, stderr=subprocess.STDOUT
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_SECONDS) as client:

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    client.get(path)
                except httpx.TransportError:
                    return False
                return True

            eventually(answers)
            yield client
    finally:
        process.terminate()
        process.wait(TIMEOUT_SECONDS)
    assert "Traceback" not in log.read_text(), log.read_text()


def test_the_script_streams_its_words(product: Web, installed: Path) -> None:
    job, text, end = output(product, installed / "python", "examples/script.py", "to and fro")
    assert re.fullmatch(r"job job_\w+", job)
    assert text.split() == ["to", "and", "fro"] * 10
    assert end == "completed 30 tokens"


def test_the_celery_script_gets_its_result_beside_an_app_of_its_own(product: Web, installed: Path) -> None:
    job, text = output(product, installed / "python", "examples/celery_script.py", "to and fro")
    assert re.fullmatch(r"job job_\w+", job)
    assert text.split() == ["to", "and", "fro"] * 10


def test_the_walkthrough_shows_the_life_of_a_job(product: Web) -> None:
    lines = output(product, "sh", "examples/walkthrough.sh")
    job, again = [line for line in lines if line.startswith("job job_")]
    assert job == again
    assert [line[0] for line in lines if re.match(r"\d\. ", line)] == list("1234567")
    numbers = [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]
    assert numbers == [*range(1, numbers[-1] + 1), *range(3, numbers[-1] + 1)]
    assert '"status":"cancelled"' in lines
    assert '"field":"max_tokens"' in lines[-1]


@pytest.fixture(scope="module")
def flask_app(
    product: Web, installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    port = free_port()
    command = ["-m", "flask", "--app", "examples/flask_app/app", "run", "--port", str(port)]
    log = tmp_path_factory.mktemp("flask") / "log"
    with serving(product, log, "/tales/none", port, installed / "python", *command) as client:
        yield client


@pytest.fixture(scope="module")
def django_app(
    product: Web, installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    port = free_port()
    # A server that reloads itself is two processes, and the signal at the end would reach only one of them.
    command = ["examples/django_app/manage.py", "runserver", "--noreload", str(port)]
    log = tmp_path_factory.mktemp("django") / "log"
    with serving(product, log, "/tales/none/", port, installed / "python", *command) as client:
        yield client


def told(client: httpx.Client, path: str) -> dict[str, Any]:
    """The tale at `path`, once it has been told."""
    return eventually(lambda: tale if "words" in (tale := client.get(path).json()) else {})


def test_the_flask_app_submits_and_shows(flask_app: httpx.Client) -> None:
    answer = flask_app.post("/tales", data={"name": "Mira"})
    assert answer.status_code == 202
    tale = told(flask_app, answer.headers["Location"])
    assert tale["id"] == answer.json()["id"]
    assert (tale["status"], tale["words"], tale["error"]) == ("completed", 40, None)
    assert tale["text"].split()[:7] == ["Once", "upon", "a", "time", "there", "was", "Mira"]


def test_a_request_to_the_flask_app_may_be_repeated(flask_app: httpx.Client) -> None:
    key = {"Idempotency-Key": "a-click"}
    first, second = (flask_app.post("/tales", data={"name": "Mira"}, headers=key) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]


def test_the_flask_app_passes_refusals_on(flask_app: httpx.Client) -> None:
    assert flask_app.get("/tales/job_unknown").status_code == 404
    refusal = flask_app.post("/tales", data={"name": "Mira"}, headers={"Idempotency-Key": "x" * 1000})
    assert refusal.status_code == 422
    assert "Idempotency-Key" in refusal.text


def test_the_django_app_submits_and_shows(django_app: httpx.Client) -> None:
    answer = django_app.post("/tales/", data={"name": "Mira"})
    assert answer.status_code == 202
    tale = told(django_app, f"/tales/{answer.json()['id']}/")
    assert (tale["id"], tale["state"], tale["words"]) == (answer.json()["id"], "SUCCESS", 40)
    assert tale["text"].split()[:7] == ["Once", "upon", "a", "time", "there", "was", "Mira"]


@pytest.mark.parametrize(("name", "port"), [("flask_app", 5000), ("django_app", 5001)])
def test_the_curl_lines_of_the_list_work(request: pytest.FixtureRequest, name: str, port: int) -> None:
    client: httpx.Client = request.getfixturevalue(name)
    text = (EXAMPLES / "README.md").read_text()
    submit, show = re.findall(rf"^curl .*localhost:{port}.*$", text, re.MULTILINE)

    def curl(line: str) -> str:
        own = f"{client.base_url.host}:{client.base_url.port}"
        command = shlex.split(line.replace(f"localhost:{port}", own))
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    answer = curl(submit)
    assert " 202 " in answer.splitlines()[0]
    [job_id] = set(re.findall(r"job_\w+", answer))
    assert eventually(lambda: "Mira" in curl(show.replace("JOB_ID", job_id)))


WHOSE_TASKS = """
import importlib, celery
{imports}
print(celery.current_app.main, importlib.import_module("{tasks}").count_words.app.main)
"""


@pytest.mark.parametrize(
    ("folder", "imports", "tasks", "app"),
    [
        ("flask_app", "import app", "tasks", "flask_project"),
        ("django_app", "import mysite, tales.views", "tales.tasks", "mysite"),
    ],
)
def test_a_projects_own_celery_app_stays_its_own(
    product: Web, installed: Path, folder: str, imports: str, tasks: str, app: str
) -> None:
    """And its own `tasks.py` is the one that it imports."""
    code = WHOSE_TASKS.format(imports=imports, tasks=tasks)
    done = subprocess.run(
        [installed / "python", "-c", code],
        cwd=EXAMPLES / folder,
        env=environment(product) | {"DJANGO_SETTINGS_MODULE": "mysite.settings"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [app, app]


def test_every_example_is_in_the_list() -> None:
    listed = set(re.findall(r"^\| \[([^\]]+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    there = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in EXAMPLES.iterdir()
        if path.name not in ("README.md", "__pycache__")
    }
    assert listed == there
