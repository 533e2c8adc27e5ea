"""The check of our prose finds faults and raises no false alarms. `make lint` runs it on all texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prose import Finding, check


def findings(folder: Path, name: str, text: str) -> list[Finding]:
    path = folder / name
    path.write_text(text)
    return list(check(path))


@pytest.mark.parametrize(
    "text",
    [
        "The caller rings the bell.",
        "The worker comes back deaf.",
        "It leaves without a good-bye.",
        "It waits for ever.",
        "The text equals the first one to the letter.",
        "It reads so many tokens.",
        "It returns jobs, of which none runs.",
        "It continues behind the last event.",
        "The job stands in Redis.",
        "Redis is away.",
        "That a job has ended shows in its log.",
        "What one engine began another may go on with.",
        "Of one worker.",
        " ".join(["word"] * 41) + ".",
    ],
)
def test_faults_are_found(tmp_path: Path, text: str) -> None:
    assert len(findings(tmp_path, "a.md", f"# Title\n\n{text}\n")) >= 1


@pytest.mark.parametrize(
    ("docstring", "faults"),
    [
        ("Return the job.", 1),
        ("Wait until it ends.", 1),
        ("Run `call` on this thread.", 1),
        ("Returns the job.", 0),
        ("Free slots of a worker.", 0),
        ("Whether the job has ended.", 0),
        ("Text of one choice.", 0),
    ],
)
def test_docstrings_of_functions_begin_with_what_the_function_does(
    tmp_path: Path, docstring: str, faults: int
) -> None:
    assert len(findings(tmp_path, "a.py", f'def f():\n    """{docstring}"""\n')) == faults


@pytest.mark.parametrize(
    "text",
    [
        "The server runs behind a proxy.",
        "It leaves no process behind.",
        "That is all. That means nothing.",
        "What happens then? It ends.",
        "It writes a string. During that, others wait.",
        "`bell` is a name, and [a link](https://example.org/deaf) too.",
        "> It told a tale about a bell.",
        "```\nring the bell\n```",
        " ".join(["word"] * 25) + "; " + " ".join(["word"] * 25) + ".",
        "## What you can rely on",
        "| What is lost | a job |",
    ],
)
def test_plain_texts_pass(tmp_path: Path, text: str) -> None:
    assert findings(tmp_path, "a.md", f"{text}\n") == []


def test_a_finding_names_its_line(tmp_path: Path) -> None:
    [finding] = findings(tmp_path, "a.md", "One line.\n\n- A list\n  that waits\n  for ever.\n")
    assert (finding.line, finding.path.name) == (5, "a.md")


PYTHON = '''"""Waits for ever."""

LIMIT = 1
"""What a worker takes."""

# The caller
# rings.


def function(name: str) -> None:
    """Does something.

    What it does, it does well.
    """
    bell = "bell"  # noqa: RING
    if bell:
        raise ValueError(f"{name} is deaf")
'''


def test_docstrings_comments_and_messages_of_python_are_read(tmp_path: Path) -> None:
    assert [finding.line for finding in findings(tmp_path, "a.py", PYTHON)] == [1, 7, 13, 17]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.lua", "local bell = 1 -- first\n-- It waits\n-- for ever.\n", 3),
        ("a.js", "/**\n * Rings it.\n */\nconst bell = 1;\n", 2),
        ("a.c", "int bell; // rings\n", 1),
        ("a.sh", "#!/bin/sh\nbell # rings\n", 2),
        ("Makefile", "bell: # rings\n", 1),
        ("a.css", "a {} /* first */\n/* It rings. */\n", 2),
        ("a.html", "<p>first</p>\n<p>It rings.</p>\n", 2),
    ],
)
def test_comments_of_other_languages_are_read(tmp_path: Path, name: str, text: str, line: int) -> None:
    assert [finding.line for finding in findings(tmp_path, name, text)] == [line]


def test_the_names_of_a_list_are_no_part_of_its_sentences(tmp_path: Path) -> None:
    text = "-- Answers:\n--   ok      written,\n--           and renewed\n--   behind  nothing was written\n"
    assert findings(tmp_path, "a.lua", text) == []
    [finding] = findings(tmp_path, "a.lua", text + "--           for ever\n")
    assert finding.line == 5
