"""Compiles one grammar and says what is wrong with it: `python tasks/grammar_process.py < QUESTION > ANSWER`.

`tasks.grammar_check` runs it as a process of its own, because a hostile grammar may take any time and memory,
or overflow the stack, which ends the process (llguidance 1.7.6). A worker compiles a grammar itself only
after this process has compiled it. This file imports nothing of `tasks`, so that it starts quickly.

QUESTION: JSON with `kind` and `value` (see `lark_source`) and `special_tokens`, the model's.
ANSWER: JSON with `error`; empty if the grammar is right.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
from collections.abc import Sequence
from typing import Any

CPU_SECONDS = 2
"""The most processor time of the process. Usual grammars take some milliseconds, and 0.1 s is the start."""

MEMORY_BYTES = 2**29
"""The most address space of the process, where the system can limit it."""

STACK_BYTES = 2**22
"""Half of what a worker's threads have, so that a grammar that passes here is safe there."""

OPTIONS = '\n%llguidance {"no_forcing": true}'
"""Every token that fits is allowed. By default the library asks a tokenizer how a forced text is cut into
tokens, and allows only the first one. Then a mask would depend on how that tokenizer treats spaces."""


WRITING = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""How JSON is written: `{"a": 1, "b": [2]}`, or the same without spaces. With any white space allowed, small
models write line breaks without end. A schema may choose otherwise by its own `x-guidance`."""


def limits() -> Any:
    """Returns the library's limits. The numbers are lower than its own, see docs/engines.md."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=1_000,
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=20_000,
        max_grammar_size=50_000,
        verbose_errors=False,
    )


def lark_source(kind: str, value: Any) -> str:
    """Returns the grammar of a field of `structured_outputs` for the library.

    kind, value: `json` with the schema as an object, `regex`, `choice`, or `grammar`.
    """
    from llguidance import LLMatcher, regex_to_lark

    match kind:
        case "json":
            source = f"start: %json {json.dumps(_with_writing(value), ensure_ascii=False)}"
        case "regex":
            source = f"start: /{regex_to_lark(value, '')}/"
        case "choice":
            source = "start: " + " | ".join(json.dumps(one, ensure_ascii=False) for one in value)
        case _:
            source = value
    grammar: str = LLMatcher.grammar_from_lark(source + OPTIONS)
    return grammar


def _with_writing(schema: dict[str, Any]) -> dict[str, Any]:
    own = schema.get("x-guidance", {})
    return {**schema, "x-guidance": {**WRITING, **own} if isinstance(own, dict) else own}


class ByteTokenizer:
    """A vocabulary of all bytes, the model's special tokens and an end, as llguidance.TokenizerWrapper."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, special_tokens: Sequence[str]) -> None:
        names = [*dict.fromkeys(special_tokens), "<end of output>"]
        self.tokens = [bytes([byte]) for byte in range(256)] + [name.encode() for name in names]
        self.special_token_ids = list(range(256, len(self.tokens)))
        self.eos_token_id = len(self.tokens) - 1

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


def compile_error(question: dict[str, Any]) -> str:
    """Returns the library's message about a grammar; empty if it can be compiled."""
    from llguidance import LLMatcher, LLTokenizer

    wrapper: Any = ByteTokenizer(question["special_tokens"])
    tokenizer = LLTokenizer(wrapper, slices=[])
    source = lark_source(question["kind"], question["value"])
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
    error: str = matcher.get_error()
    return error


def main() -> None:
    question = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    threading.stack_size(STACK_BYTES)
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(compile_error(question)))
    thread.start()
    thread.join()
    if not answers:
        sys.exit(1)  # The thread's traceback is on stderr.
    json.dump({"error": answers[0]}, sys.stdout)


if __name__ == "__main__":
    main()
