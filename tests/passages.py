"""Finds the texts in a file that people read: paragraphs, docstrings, comments and messages."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

COMMENT_MARKS = {
    **dict.fromkeys([".js", ".c", ".h"], "//"),
    **dict.fromkeys([".sh", ".yml", ".toml", ".conf", ".txt", "Makefile", "Dockerfile", "run"], "#"),
    ".lua": "--",
    ".css": "/*",
}
"""Suffix of a file, or name of a file without one -> what begins a comment."""

READABLE = {".md", ".py", ".html", ".jinja", *COMMENT_MARKS}


class Kind(Enum):
    SENTENCES = auto()
    NAME_FIRST = auto()
    """The first sentence may be a name for what it describes: "What a worker announces."."""
    NAME = auto()
    """A heading or a table's cell, which need not be a sentence."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph, a list item, a table's cell, a docstring's paragraph, a block of comments or a message."""

    line: int
    """The line of its first word, from 1."""
    text: str
    """Its text with line breaks."""
    kind: Kind = Kind.SENTENCES


def kind_of(path: Path) -> str:
    return path.suffix or path.name


def passages(path: Path) -> Iterator[Passage]:
    """Everything in a file that is written for people."""
    source = path.read_text()
    if path.suffix == ".md":
        found = _of_markdown(source)
    elif path.suffix == ".py":
        found = _of_python(source)
    elif path.suffix in (".html", ".jinja"):
        found = _of_html(source)
    else:
        found = _of_comments(source, COMMENT_MARKS[kind_of(path)])
    for passage in found:
        yield replace(passage, text=_without_code(passage.text))


def _without_code(text: str) -> str:
    """Code, addresses and quotations are not ours to reword; what replaces them has as many lines."""

    def one_word(match: re.Match[str]) -> str:
        return "X" + "\n" * match[0].count("\n")

    text = re.sub(r"``[^`]+``|`[^`]*`", one_word, text)
    text = re.sub(r"(?<=\])\([^)\s]*\)", "", text)
    return re.sub(r"https?://[^\s)>]+", one_word, text)


def _of_markdown(source: str) -> Iterator[Passage]:
    """Paragraphs, list items, headings and cells; no blocks of code and no quotations."""
    block: list[str] = []
    start, is_code = 1, False
    for number, line in enumerate([*source.splitlines(), ""], 1):
        text = line.strip()
        is_fence = text.startswith("```")
        is_own = is_code or is_fence or not text or re.match(r"\||>|<|#|---|    ", line) is not None
        if block and (is_own or re.match(r"[-*] |\d+\. ", text)):
            yield Passage(start, "\n".join(block))
            block = []
        is_code ^= is_fence
        if is_own:
            if not is_code and re.match(r"\||#", text):
                yield from (Passage(number, cell.strip(), Kind.NAME) for cell in text.strip("|# ").split("|"))
            continue
        start = start if block else number
        block.append(text)


def _of_html(source: str) -> Iterator[Passage]:
    """The text between two tags."""
    for number, line in enumerate(source.splitlines(), 1):
        for text in re.findall(r">([^<>{}]+)<", line):
            yield Passage(number, text.strip(), Kind.NAME)


def _of_python(source: str) -> Iterator[Passage]:
    found = [*_docstrings(ast.parse(source)), *_messages(ast.parse(source)), *_python_comments(source)]
    yield from sorted(found, key=lambda passage: passage.line)


def _docstrings(tree: ast.Module) -> Iterator[Passage]:
    """A passage for each paragraph; those of attributes too."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            number = node.lineno
            for paragraph in re.split(r"\n[ \t]*\n", node.value.value):
                lines = [line.strip() for line in paragraph.split("\n")]
                kind = Kind.NAME_FIRST if number == node.lineno else Kind.SENTENCES
                yield Passage(number, "\n".join(lines), kind)
                number += len(lines) + 1


def _messages(tree: ast.Module) -> Iterator[Passage]:
    """Texts of errors, of logs and of fields' descriptions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield from _texts(node.exc)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("logger.", "logging.")):
            yield from (text for argument in node.args for text in _texts(argument))
        elif isinstance(node, ast.keyword) and node.arg in ("description", "help"):
            yield from _texts(node.value)


def _texts(node: ast.AST) -> Iterator[Passage]:
    if isinstance(node, ast.JoinedStr):
        words = [str(piece.value) if isinstance(piece, ast.Constant) else "X" for piece in node.values]
        yield Passage(node.lineno, "".join(words))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield Passage(node.lineno, node.value)
    else:
        yield from (text for child in ast.iter_child_nodes(node) for text in _texts(child))


def _python_comments(source: str) -> Iterator[Passage]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    numbered = [(token.start[0], token.string.lstrip("#!").strip()) for token in comments]
    yield from _blocks([(n, text) for n, text in numbered if not re.match(r"noqa|type:|pragma", text)])


def _of_comments(source: str, mark: str) -> Iterator[Passage]:
    """Comments to the end of the line, and in JavaScript, C and CSS also /* … */."""
    numbered = []
    for number, line in enumerate(source.splitlines(), 1):
        if match := re.search(rf"(?:^|\s){re.escape(mark)}+!?\s?(.*)|^\s*/?\*+/?\s?(.*)", line):
            if line[: match.start()].strip():  # After code: not a part of the comment before it.
                numbered.append((number, ""))
            numbered.append((number, (match[1] or match[2] or "").strip()))
    yield from _blocks(numbered)


def _blocks(numbered: Sequence[tuple[int, str]]) -> Iterator[Passage]:
    """Successive lines are one passage, until an empty line or an entry of a list: `name  text`."""
    block: list[str] = []
    start = last = 0
    for number, line in numbered:
        entry = re.match(r"\S+ {2,}(.*)", line)
        text = entry[1] if entry else line
        if block and (number != last + 1 or not text or entry):
            yield Passage(start, "\n".join(block), Kind.NAME_FIRST)
            block = []
        if text:
            start = start if block else number
            block.append(text)
        last = number
    if block:
        yield Passage(start, "\n".join(block), Kind.NAME_FIRST)
