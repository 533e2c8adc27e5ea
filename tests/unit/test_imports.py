"""The shared contract and the web do without what only workers need."""

from __future__ import annotations

import json
import subprocess
import sys

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
