"""The documents agree with the code."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from tasks.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    ROOT / "examples" / "README.md",
    ROOT / "worker" / "models" / "bundled" / "README.md",
]

TOLD_TOGETHER = ("worker/engine/native", "worker/engine/text", "worker/engine/torch")
"""Folders whose row in the table need not name each module."""


def table_row(name: str) -> str:
    """Returns a setting's row of the README's table."""
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
    """Returns whether a row of the module's folder, or of a parent folder, names the module."""
    name = f"`{module.name}`" if folder.parent == Path() else f"`{module.stem}`"
    starts = [f"| `{parent}/" for parent in (folder, *folder.parents[:-1])]
    return any(
        row.startswith(start) and (name in row or f"`{folder}/{module.name}`" in row)
        for row in rows
        for start in starts
    )


def test_the_licence_is_apaches_own_text() -> None:
    text = (ROOT / "LICENSE").read_bytes()
    published = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert hashlib.sha256(text).hexdigest() == published, "https://www.apache.org/licenses/LICENSE-2.0.txt"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for address in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in address:
            continue
        file, _, heading = address.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), address
        if heading:
            assert heading in anchors(target), address


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_glossary_is_in_alphabetical_order() -> None:
    terms = re.findall(r"^\*\*(.+?)\.\*\*", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(terms) > 40
    assert terms == sorted(terms, key=str.lower)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    folders = "tasks|web|worker|client|deploy|bench|training|harness|tests|docs|examples"
    for name in re.findall(rf"`((?:{folders})/[\w./-]+\w)", page.read_text()):
        # Tables about tests leave out the folder `tests`.
        assert (ROOT / name).exists() or (ROOT / "tests" / name).exists() or "NAME" in name, name


def test_tests_that_a_page_names_are_there() -> None:
    tests = {
        name
        for path in ROOT.glob("tests/**/test_*.py")
        for name in re.findall(r"def (\w+)\(", path.read_text())
    }
    named = {name for page in PAGES for name in re.findall(r"::(test_\w+)", page.read_text())}
    assert len(named) > 50
    assert named - tests == set()
