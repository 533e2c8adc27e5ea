"""Compiles the `structured_outputs` of a request for one model's vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import llguidance

from tasks import grammar_process
from tasks.errors import EngineError, InvalidGrammarError
from tasks.grammar_check import check_grammar, plain
from tasks.structured_outputs import kind_of, schema_of
from worker.engine.grammar.matcher import GrammarMatcher, GrammarSource, Vocabulary

END_OF_OUTPUT = b"<end of output>"


class GrammarCompiler:
    """Compiles grammars for one model. Not for several threads at once."""

    def __init__(
        self,
        vocab_size: int,
        eos_ids: Collection[int],
        special_tokens: Mapping[int, str],
        find_bytes: Callable[[int], Sequence[bytes]],
    ) -> None:
        """vocab_size: how many ids the model has. eos_ids: each of them ends a sequence.

        special_tokens: the text of ids that no text contains, which a grammar may name.
        find_bytes: returns the bytes of each id below a number; see `token_bytes`. It is called when the
            first grammar is compiled, because it takes about a second for a large vocabulary.
        """
        self._vocab_size = vocab_size
        self._eos_ids = frozenset(eos_ids)
        self._special_tokens = {
            token_id: text for token_id, text in special_tokens.items() if token_id < vocab_size
        }
        self._find_bytes = find_bytes
        self._tokenizer: Any = None

    def compile(self, outputs: Any) -> Grammar:
        """Returns a compiled grammar. outputs: a valid `structured_outputs`.

        Raises InvalidGrammarError where it cannot be compiled or takes too long, and EngineError where the
        model's outputs cannot be restricted.
        """
        check_grammar(outputs, list(self._special_tokens.values()))
        kind = kind_of(outputs)
        value = schema_of(outputs["json"]) if kind == "json" else outputs[kind]
        return self.restore(GrammarSource(kind, grammar_process.lark_source(kind, value)))

    def restore(self, source: GrammarSource) -> Grammar:
        """Returns a grammar that was compiled before, maybe in another process. It is not checked again.

        Raises InvalidGrammarError.
        """
        if self._tokenizer is None:
            self._tokenizer = llguidance.LLTokenizer(self._wrapper())
        limits = grammar_process.limits()
        matcher = llguidance.LLMatcher(self._tokenizer, source.text, log_level=0, limits=limits)
        if matcher.is_error():
            raise InvalidGrammarError(source.kind, plain(source.kind, matcher.get_error()))
        return Grammar(matcher, Vocabulary(self._vocab_size, self._eos_ids), source)

    def _wrapper(self) -> Any:
        """Returns the vocabulary as the library takes it, with one more id: the end of an output.

        The library gets an id of its own for that, because a model may have several ids for it or none, and
        one of them may be an ordinary token.
        """
        tokens = [
            b"" if token_id in self._eos_ids else data
            for token_id, data in enumerate(self._find_bytes(self._vocab_size))
        ]
        for token_id, text in self._special_tokens.items():
            tokens[token_id] = text.encode()
        return TokenTable([*tokens, END_OF_OUTPUT], [*self._special_tokens, self._vocab_size])


class TokenTable:
    """A vocabulary, in the form of `llguidance.TokenizerWrapper`. The last token is the end of an output."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special_ids: Sequence[int]) -> None:
        self.tokens = tokens
        self.special_token_ids = special_ids
        self.eos_token_id = len(tokens) - 1

    def __call__(self, text: Any) -> list[int]:  # noqa: ARG002
        """Is never called: the library tokenizes only a forced text, see `grammar_process.OPTIONS`."""
        raise AssertionError("the library tokenizes a text")


class Grammar:
    """A compiled grammar, see `worker.engine.base.Grammar`."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: Vocabulary, source: GrammarSource) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._source = source

    def matcher(self, output_ids: Sequence[int]) -> GrammarMatcher:
        """Returns a matcher after the ids that earlier attempts have generated.

        Raises EngineError where they do not fit, because another engine or library generated them.
        """
        matcher = self._matcher.deep_copy()
        accepted = matcher.try_consume_tokens(list(output_ids))
        if accepted < len(output_ids):
            raise EngineError(
                f"structured_outputs: token {accepted + 1} of the earlier attempts' output does not fit the "
                "grammar, so it cannot be continued"
            )
        return GrammarMatcher(matcher, self._vocabulary, self._source)
