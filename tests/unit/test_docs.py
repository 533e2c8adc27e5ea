"""The README, the licence and the architecture page are true."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic_core import PydanticUndefined

from tasks.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text()
ARCHITECTURE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()


def table_row(name: str) -> str:
    """A setting's line of the README's table."""
    field = Settings.model_fields[name]
    default = field.get_default(call_default_factory=True, validated_data={})
    assert default is not PydanticUndefined
    shown = "" if default in (None, {}, ()) else f"`{int(default) if isinstance(default, bool) else default}`"
    return f"| `{name.upper()}` | {shown} | {field.description} |"


def test_the_settings_table_is_the_codes() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `") and line.split("`")[1].isupper()]
    assert rows == [table_row(name) for name in Settings.model_fields]


def test_every_module_has_its_line() -> None:
    root = Path(__file__).parents[2]
    for package in ("tasks", "web", "worker"):
        for module in (root / package).glob("*.py"):
            if module.stem not in ("__init__", "gunicorn.conf"):
                assert f"{module.stem}.py" in ARCHITECTURE, f"{package}/{module.name} is missing"


def test_the_licence_is_apaches_own_text() -> None:
    text = (Path(__file__).parents[2] / "LICENSE").read_bytes()
    published = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert hashlib.sha256(text).hexdigest() == published, "https://www.apache.org/licenses/LICENSE-2.0.txt"
