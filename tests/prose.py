"""Finds English that stops readers: `python -m tests.prose [PATH ...]`; without paths it checks CHECKED.

It reads Markdown, the docstrings, comments and messages of Python, and the comments of other languages. There
are few rules, and false alarms are rare, so that a finding is a fault. CONTRIBUTING.md has the reasons.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.passages import READABLE, Kind, Passage, kind_of, passages

ROOT = Path(__file__).parents[1]

CHECKED = ["[!.]*", ".ci", ".github"]
"""What `make lint` checks, as patterns below ROOT. A folder stands for all readable files in it."""

GENERATED = {"constraints.txt"}
MOST_WORDS = 40
"""The most words in a sentence. Colons and semicolons end one, because what follows can be read by itself."""


@dataclass(frozen=True, slots=True)
class Finding:
    path: Path
    line: int
    advice: str
    quote: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.advice}: {self.quote}"


@dataclass(frozen=True, slots=True)
class Rule:
    pattern: re.Pattern[str]
    advice: str


def _rule(pattern: str, advice: str) -> Rule:
    return Rule(re.compile(pattern, re.IGNORECASE), advice)


def _words(advice: str, *words: str) -> Rule:
    return _rule(rf"\b(?:{'|'.join(words)})\b", advice)


_MIDDLEMEN = r"(?:(?:reverse )?prox(?:y|ies)|(?:load )?balancers?|firewalls?|gateways?)\b"
"""What a server may well be behind."""

RULES = [
    _words(
        "say what it is: an offer, a message, a notification", "bells?", "rings?", "rang", "rung", "ringing"
    ),
    _words("say what does not arrive", "deaf", "deafness"),
    _words("say what is sent or closed", "good-?byes?"),
    _words("use another verb: obey, apply, read", "heed(?:s|ed)?"),
    _words("name the program", "foreman"),
    _words("say dead, or that the connection was lost", "severed"),
    _words("forever", "for ever"),
    _words(
        "archaic or inverted", "lest", "whereof", "thereof", "wherein", "aught", "nought", "hitherto", "ere"
    ),
    _words("name the number, or write 'many' or 'as many as …'", "so many", "as many again"),
    _rule(r"(?<!each )\bof which\b", "make two sentences"),
    _words("exactly; identical", "to the letter"),
    _words("again", "anew"),
    _words("except for", "but for"),
    _words("uninterrupted", "undisturbed"),
    _words("slowest, or most expensive", "dearest"),
    _words("say what is available", "(?:be|is|was) had"),
    _words("say unavailable, or not reachable", "(?:is|was|are|were|be|being|stays|stayed) away"),
    _words("say that it is stored, or where it is", "stands? in (?:Redis|the record|the log|the table)"),
    _rule(
        rf"(?<!leave )(?<!leaves )(?<!left )\bbehind (?!(?:(?:an?|the|its|your|any|another) )?{_MIDDLEMEN})",
        "of time or order: after; of place: in, around",
    ),
]


IMPERATIVE = re.compile(
    r"(?:Accept|Add|Append|Apply|Ask|Build|Call|Cancel|Check|Choose|Claim|Clear|Close|Compute|Copy|Count|Create"
    r"|Decode|Delete|Drain|Draw|Drop|Encode|End|Fail|Fill|Find|Free|Get|Give|Keep|Learn|Let|List|Load|Make|Mark"
    r"|Move|Note|Open|Pack|Parse|Print|Publish|Put|Raise|Read|Refuse|Release|Remember|Remove|Renew|Return|Run"
    r"|Send|Set|Show|Sort|Split|Start|Stop|Store|Submit|Take|Tell|Tokenize|Try|Turn|Update|Use|Wait|Write)"
    r" (?:the|a|an|all|its|each|every|this|that|these|what|whether|how|until|for|`)"
)
"""How an imperative begins. The second word tells verbs from nouns, as in "Free slots of a worker"."""


def sentence_rules(sentence: str, *, may_be_name: bool = False) -> Iterator[str]:
    """Advice on a whole sentence."""
    if re.match(r"That (?:an?|the|no|each|every|its|his|their|our|it|they|we|one|there) ", sentence):
        yield "begin with the subject, not with a clause of 'that'"
    if not may_be_name and re.match(r"What\b[^?]*[^?:]$", sentence):
        yield "begin with the subject, not with a clause of 'what'"
    if re.match(r"Of (?!course\b)", sentence):
        yield "a telegram: say what it is"
    if "{" in sentence:  # It describes data.
        return
    words = len(re.findall(r"\w[\w'.,/-]*", sentence))
    if words > MOST_WORDS:
        yield f"a sentence of {words} words; at most {MOST_WORDS}"


def check(path: Path) -> Iterator[Finding]:
    """The findings in one file."""
    for passage in passages(path):
        yield from _check_passage(path, passage)
    if path.suffix == ".py":
        yield from _check_moods(path)


def _check_moods(path: Path) -> Iterator[Finding]:
    """Finds functions whose docstring begins with an order: "Return the …" instead of "Returns the …"."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if IMPERATIVE.match(text):
                yield Finding(
                    path, node.body[0].lineno, "begin with 'Returns', 'Claims' and the like", text[:60]
                )


def _check_passage(path: Path, passage: Passage) -> Iterator[Finding]:
    flat = " ".join(passage.text.split("\n"))  # The same length, so that positions keep their lines.

    def finding(position: int, advice: str, quote: str) -> Finding:
        return Finding(path, passage.line + passage.text.count("\n", 0, position), advice, quote)

    for rule in RULES:
        for match in rule.pattern.finditer(flat):
            around = flat[max(0, match.start() - 30) : match.end() + 30].strip()
            yield finding(match.start(), rule.advice, f"… {around} …")
    for start, sentence in () if passage.kind is Kind.NAME else sentences(flat):
        may_be_name = passage.kind is Kind.NAME_FIRST and start == 0
        for advice in sentence_rules(sentence, may_be_name=may_be_name):
            yield finding(start, advice, sentence[:60])


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """(position, sentence), cut at colons and semicolons as well."""
    position = 0
    for end in re.finditer(r"(?:[.!?]['\")\]*_]*|[:;])\s+|$", text):
        sentence = text[position : end.end()].strip()
        if sentence:
            yield position, sentence
        position = end.end()


def files(patterns: Sequence[str]) -> Iterator[Path]:
    """The readable files that patterns below ROOT, or paths, stand for."""
    for pattern in patterns:
        paths = [Path(pattern)] if Path(pattern).is_absolute() else sorted(ROOT.glob(pattern))
        for path in paths:
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            yield from (file for file in inside if file.is_file() and _is_readable(file))


def _is_readable(path: Path) -> bool:
    return kind_of(path) in READABLE and path.name not in GENERATED


def main(patterns: Sequence[str]) -> int:
    findings = [finding for path in files(patterns or CHECKED) for finding in check(path)]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
