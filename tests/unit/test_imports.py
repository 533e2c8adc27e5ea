"""Imports go one way: between the packages, and between the rooms of the engine."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

LIST_IMPORTS = """
import json, pkgutil, sys
import {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    __import__(module.name)
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
"""


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("tasks", {"torch", "transformers", "flask", "gunicorn", "web", "worker", "client"}),
        ("web", {"torch", "transformers", "worker", "client"}),
        ("client", {"torch", "transformers", "flask", "celery", "redis", "tasks", "web", "worker"}),
    ],
)
def test_packages_import_nothing_of_the_others(package: str, forbidden: set[str]) -> None:
    code = LIST_IMPORTS.format(package=package)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not forbidden & set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("room", "others"),
    [
        ("text", set()),
        ("native", set()),
        ("torch", {"native"}),
        ("loading", {"native", "torch", "text"}),
        ("transformers", {"native", "torch", "text", "loading"}),
        ("vllm", {"text", "loading"}),
    ],
)
def test_rooms_of_the_engine_import_one_way(room: str, others: set[str]) -> None:
    engine = Path(__file__).parents[2] / "worker" / "engine"
    rooms = {folder.name for folder in engine.iterdir() if folder.is_dir()}
    modules = [*(engine / room).glob("*.py")]
    assert modules
    imported = {name for module in modules for name in imported_names(module.read_text())}
    used = {name.split(".")[2] for name in imported if name.startswith("worker.engine.")}
    assert used & rooms <= {room, *others}


def imported_names(source: str) -> set[str]:
    """Modules that a source imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names
