"""Decides whether a grammar can be compiled, in a process of its own (`tasks.grammar_process`).

The verdict is kept, because clients send the same few schemas over and over.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks import grammar_process
from tasks.errors import InvalidGrammarError
from tasks.structured_outputs import kind_of, schema_of

LIBRARY = "llguidance"

WAIT_SECONDS = 20.0
"""How long a check may take on a machine that is busy with other things."""

AT_ONCE = 2
"""How many checks run at the same time; others wait."""

KEPT_VERDICTS = 256

TOO_LONG = f"takes longer than {grammar_process.CPU_SECONDS} s to compile"
TOO_COMPLEX = "is too complex to be compiled"

NO_OUTPUT = "accepts no output"
"""For the library's `NoExtensionBias`."""

MAX_MESSAGE_CHARACTERS = 300

DEPENDS_ON_MODEL = ("unknown special token", "Token range end too large")
"""What the library says of a grammar that names tokens of a model."""

_places = threading.Semaphore(AT_ONCE)
_verdicts: OrderedDict[str, str] = OrderedDict()
"""Question -> what is wrong; the least recently used one comes first."""
_lock = threading.Lock()


def is_installed() -> bool:
    """Whether the library is there. Without it, `check_grammar` accepts all grammars."""
    return find_spec(LIBRARY) is not None


def check_grammar(outputs: Any, special_tokens: Sequence[str] | None = None) -> None:
    """Raises InvalidGrammarError where the grammar of a valid `structured_outputs` cannot be compiled.

    special_tokens: the model's, which a grammar may name. None where they are not known: then a grammar that
        names some is accepted, and the worker decides.
    """
    if not is_installed():
        return
    kind = kind_of(outputs)
    value = schema_of(outputs["json"]) if kind == "json" else outputs[kind]
    question = json.dumps({"kind": kind, "value": value, "special_tokens": special_tokens or []})
    problem = _verdict(kind, question)
    if problem and special_tokens is None and any(sign in problem for sign in DEPENDS_ON_MODEL):
        return
    if problem:
        raise InvalidGrammarError(kind, problem)


def _verdict(kind: str, question: str) -> str:
    with _lock:
        if question in _verdicts:
            _verdicts.move_to_end(question)
            return _verdicts[question]
    with _places:
        problem = _ask(kind, question)
    with _lock:
        _verdicts[question] = problem
        while len(_verdicts) > KEPT_VERDICTS:
            _verdicts.popitem(last=False)
    return problem


def _ask(kind: str, question: str) -> str:
    """Returns what is wrong with a grammar; empty if nothing is."""
    # -P: the file's own folder has modules with names of others.
    command = [sys.executable, "-P", str(Path(grammar_process.__file__))]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            answer, _ = process.communicate(question, timeout=WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return TOO_LONG
    if process.returncode == -signal.SIGXCPU:
        return TOO_LONG
    if process.returncode != 0:
        return TOO_COMPLEX  # It had no memory left, or its stack was full.
    error: str = json.loads(answer)["error"]
    return plain(kind, error)


def plain(kind: str, error: str) -> str:
    """Returns a message of the library in one line, without the copy of the grammar that it contains."""
    lines = [line.strip() for line in error.splitlines() if not re.match(r"\s*(\d+ \||\^+\s*$|<)", line)]
    text = " ".join(line for line in lines if line)
    if kind == "json":
        text = re.sub(r"^at \d+\(\d+\): failed to compile JSON schema: ", "", text)
    elif kind != "grammar":
        text = re.sub(r"^at \d+\(\d+\): (?:invalid regex .* \(in regex\): )?", "", text, flags=re.DOTALL)
    text = re.sub(r"regex parse error: .* error: ", "invalid regular expression: ", text, flags=re.DOTALL)
    return NO_OUTPUT if text == "NoExtensionBias" else text[:MAX_MESSAGE_CHARACTERS]
