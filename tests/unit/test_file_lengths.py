"""Files are short, or say at their heads why they are not."""

from __future__ import annotations

import re

import pytest

from tests.prose import CHECKED, files

MOST_LINES = 300
SUFFIXES = {".py", ".lua", ".js", ".c", ".h"}
HEAD = re.compile(r'(?:\s*(?:""".*?"""|(?:--|//|#)[^\n]*\n))*', re.DOTALL)
"""A docstring, or comments before the first statement."""


def explains_its_length(source: str) -> bool:
    """Returns whether a sentence of the head begins with the reason for a single file."""
    head = HEAD.match(source)
    return (
        head is not None
        and re.search(r"(?:^|[.:]\s)\W*One file, because ", head[0], re.MULTILINE) is not None
    )


def test_long_files_say_why() -> None:
    sources = {path: path.read_text() for path in files(CHECKED) if path.suffix in SUFFIXES}
    long = {path: text for path, text in sources.items() if text.count("\n") > MOST_LINES}
    unexplained = [str(path) for path, text in long.items() if not explains_its_length(text)]
    assert not unexplained, (
        f"over {MOST_LINES} lines: split them, or begin a sentence of the head with 'One file, because '"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""Does much.\n\nOne file, because it is one list.\n"""\nx = 1\n', True),
        ('"""Does much."""\nx = "One file, because "\n', False),
        ("-- Does much. One file, because it is one list.\nlocal x\n", True),
        ("// Does much.\n// One file, because it is one list.\n#pragma once\n", True),
        ("// Does much.\nint x;\n// One file, because it is one list.\n", False),
    ],
)
def test_the_reason_is_read_in_the_head(source: str, expected: bool) -> None:
    assert explains_its_length(source) is expected
