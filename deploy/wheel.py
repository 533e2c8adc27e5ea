"""The build hook of the wheel: puts the product's packages below `tokenrelay`, with their imports adapted.

In a checkout they are top-level packages with short names (`tasks`, `web`, …), which collide with modules of
other projects. The wheel holds the same files as `tokenrelay.tasks` and so on. Only their import statements
are changed; a name in a string (a Celery app, gunicorn's) must be made from `__package__` or `deploy.places`.
"""

from __future__ import annotations

import ast
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = ("client", "deploy", "tasks", "web", "worker")
LEFT_OUT = ("__pycache__", "compose", "Dockerfile", "requirements*.txt", "wheel.py")


class WheelHook(BuildHookInterface[Any]):
    """hatchling calls it around each build of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            raise RuntimeError("no editable installs: in a checkout, import the packages as they are")
        self._folder = tempfile.TemporaryDirectory()
        target = Path(self._folder.name, "tokenrelay")
        collect(Path(self.root), target)
        build_data["force_include"][str(target)] = "tokenrelay"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        self._folder.cleanup()


def collect(checkout: Path, target: Path) -> None:
    """Copies what is installed from a checkout to `target` and adapts it."""
    shutil.copytree(checkout / "tokenrelay", target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for package in PACKAGES:
        shutil.copytree(checkout / package, target / package, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for module in target.rglob("*.py"):
        module.write_text(with_prefix(module.read_text(), str(module.relative_to(target))))


def with_prefix(source: str, name: str) -> str:
    """Returns a module's source with `tokenrelay.` before our packages in its import statements.

    Raises ValueError for a form of import that cannot be adapted line by line.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module.split(".")[0] in PACKAGES:
                _replace(lines, node, f"from {node.module} ", f"from tokenrelay.{node.module} ")
        elif isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.split(".")[0] in PACKAGES]
            if not ours:
                continue
            if len(node.names) > 1 or "." in ours[0].name:
                raise ValueError(f"{name}:{node.lineno}: write `from package import module` here")
            _replace(lines, node, f"import {ours[0].name}", f"from tokenrelay import {ours[0].name}")
    return "".join(lines)


def _replace(lines: list[str], node: ast.stmt, old: str, new: str) -> None:
    line = lines[node.lineno - 1]
    before, after = line[: node.col_offset], line[node.col_offset :]
    if not after.startswith(old):
        raise ValueError(f"line {node.lineno}: unexpected form: {line.strip()}")
    lines[node.lineno - 1] = before + new + after.removeprefix(old)
