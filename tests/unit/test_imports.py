"""Imports go one way: between the packages, the parts of the web server and those of the engine."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

import client
import tokenrelay

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


ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"

CONTRACT = {"web.answers", "web.errors", "web.render"}
"""Modules that every part of the web server may use: the shapes of answers, errors and JSON."""


@cache
def imports_of(path: Path) -> Sequence[str]:
    """Returns the dotted names that a file imports: modules, and names in them."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: a relative import"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def is_inside(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(
    "folder", ["tasks", "web", "worker", "client", "tokenrelay", "deploy", "harness", "bench", "training"]
)
def test_only_tests_import_tests(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert not [name for name in imports_of(path) if is_inside(name, {"tests"})], path


@pytest.mark.parametrize("folder", ["tasks", "web", "worker", "client", "tokenrelay", "deploy"])
def test_the_product_imports_neither_benchmarks_nor_the_training(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert not [name for name in imports_of(path) if is_inside(name, {"bench", "harness", "training"})], (
            path
        )


def test_the_relay_knows_neither_routes_nor_requests() -> None:
    for path in (WEB / "relay").glob("*.py"):
        for name in set(imports_of(path)) - {"web"}:
            assert not is_inside(name, {"web"}) or is_inside(name, {"web.relay", *CONTRACT}), (path, name)
            assert not is_inside(name, {"flask"}), (path, name)


def test_only_the_app_factory_knows_the_routes() -> None:
    for path in WEB.rglob("*.py"):
        if path != WEB / "__init__.py" and path.parent != WEB / "routes":
            assert not [name for name in imports_of(path) if is_inside(name, {"web.routes"})], path


def test_answers_errors_and_json_know_nothing_else_of_the_web_server() -> None:
    for module in CONTRACT:
        path = WEB / f"{module.removeprefix('web.')}.py"
        for name in set(imports_of(path)) - {"web"}:
            assert not is_inside(name, {"web"}) or is_inside(name, CONTRACT), (path, name)


@pytest.mark.parametrize(
    ("folder", "others"),
    [
        ("text", set()),
        ("native", set()),
        ("torch", {"native"}),
        ("loading", {"native", "torch", "text"}),
        ("grammar", set()),
        ("transformers", {"native", "torch", "text", "loading", "grammar"}),
        ("vllm", {"text", "loading", "grammar"}),
    ],
)
def test_folders_of_the_engine_import_one_way(folder: str, others: set[str]) -> None:
    engine = Path(__file__).parents[2] / "worker" / "engine"
    folders = {path.name for path in engine.iterdir() if path.is_dir()}
    modules = [*(engine / folder).glob("*.py")]
    assert modules
    imported = {name for module in modules for name in imports_of(module)}
    used = {name.split(".")[2] for name in imported if name.startswith("worker.engine.")}
    assert used & folders <= {folder, *others}


def test_the_package_offers_all_of_the_client() -> None:
    assert set(tokenrelay.__all__) == {*client.__all__, *tokenrelay.QUEUE_NAMES}
    assert all(hasattr(tokenrelay, name) for name in tokenrelay.__all__)
