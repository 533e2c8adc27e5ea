"""The README says what the code does."""

from __future__ import annotations

from pathlib import Path

from pydantic_core import PydanticUndefined

from tasks.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()

TOLD_TOGETHER = ("worker/engine", "worker/models")
"""Folders that have one line, which need not name each of their modules."""


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
    rows = [line for line in ARCHITECTURE.splitlines() if line.startswith("| `")]
    for package in ("tasks", "web", "worker"):
        for module in (ROOT / package).rglob("*.py"):
            folder = module.relative_to(ROOT).parent
            is_told_together = any(folder.is_relative_to(each) for each in TOLD_TOGETHER)
            if module.stem not in ("__init__", "__main__", "gunicorn.conf") and not is_told_together:
                assert is_named(module, folder, rows), f"{folder}/{module.name} is missing"


def is_named(module: Path, folder: Path, rows: list[str]) -> bool:
    """Whether a row of the module's own folder, or of one around it, names the module."""
    name = f"`{module.name}`" if folder.parent == Path() else f"`{module.stem}`"
    starts = [f"| `{parent}/" for parent in (folder, *folder.parents[:-1])]
    return any(
        row.startswith(start) and (name in row or f"`{folder}/{module.name}`" in row)
        for row in rows
        for start in starts
    )
