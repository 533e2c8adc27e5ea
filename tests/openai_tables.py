"""Reads the tables of docs/openai.md and docs/openai-comparison.md, which tests compare with the code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

DOCUMENTS = Path(__file__).parents[1] / "docs"


class Said(NamedTuple):
    """What the comparison says of a field or a route. A dash is empty."""

    openai: str
    vllm: str
    tokenrelay: str


def compared(heading: str) -> Mapping[str, Said]:
    """Returns what the table below a heading of the comparison says of each of its fields, or routes."""
    found: dict[str, Said] = {}
    for names, *cells in _rows("openai-comparison.md", heading, columns=4):
        for name in names:
            assert name not in found, f"{name} is in two rows"
            found[name] = Said(*(cell if re.search(r"\w", cell) else "" for cell in cells))
    return found


def honoured(heading: str, columns: int, place: int) -> Mapping[str, str]:
    """Returns what a column says of each field below a heading of docs/openai.md.

    A dash says that the column's route has no such field.
    """
    found: dict[str, str] = {}
    for names, *cells in _rows("openai.md", heading, columns):
        if re.search(r"\w", cells[place - 1]):
            found |= dict.fromkeys(names, cells[place - 1])
    return found


def _rows(document: str, heading: str, columns: int) -> Iterator[tuple[Sequence[str], *tuple[str, ...]]]:
    """Yields the rows of a table: the names in the first cell, and the other cells."""
    text = (DOCUMENTS / document).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    assert text, heading
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == columns and (names := re.findall("`(.+?)`", cells[0])):
            yield names, *cells[1:]
