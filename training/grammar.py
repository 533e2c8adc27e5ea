"""A tiny rewriting grammar: ``[this|that]`` picks one, ``{name}`` fills a slot, and slots may hold templates.

``{He}`` is the slot ``he`` with its first letter raised, so that one slot serves inside and at the head of a
sentence.
"""

import re
from collections.abc import Mapping
from random import Random

_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=(?:[aeiou]|[AEIOU](?=[a-z])|hour|honest))")
_NOT_A_VOWEL_SOUND = re.compile(r"\b([Aa])n (?=(?:one|use|uni|eu))", re.IGNORECASE)
# A full stop inside quotes ends the sentence too; after ?" and !" the speaker may follow in small letters.
_SENTENCE_HEAD = re.compile(r'(^|\n|[.!?] |\." )("?)([a-z])')
# Options of one bracket may be of both kinds, "I am cold" and "may I come in", with one mark after it.
_QUESTION = re.compile(
    r'((?:"|[.!?] )(?:Where|Why|May|Could|Can|Have you|Will you|Would you|Is this|Is it|Are you|Do you|'
    r"Did you|Shall|Who (?:is|can|has)|How (?:can|did|do|shall)|What (?:do|did|is|can|shall|will|have|was)) "
    r'[^.!?"]*)[,!]"'
)
_ANSWERED_A_QUESTION = re.compile(r'\?" (?:said|replied|answered)\b')


class GrammarError(ValueError):
    """A template is malformed, or names a slot that nobody filled."""


def expand(template: str, slots: Mapping[str, str], rng: Random) -> str:
    """Rewrites ``template`` until no bracket and no slot is left. Raises GrammarError."""
    text, end = _sequence(template, 0, slots, rng)
    if end != len(template):
        raise GrammarError(f"stray bracket in {template!r}")
    return text


def polish(text: str) -> str:
    """Collapses doubled spaces, chooses between a and an, marks questions, capitalizes sentences."""
    text = re.sub(r" {2,}", " ", text).strip()
    text = _A_BEFORE_VOWEL.sub(r"\1n ", text)
    text = _NOT_A_VOWEL_SOUND.sub(r"\1 ", text)
    text = _QUESTION.sub(r'\1?"', text)
    text = _ANSWERED_A_QUESTION.sub('?" asked', text)
    return _SENTENCE_HEAD.sub(lambda found: found[1] + found[2] + found[3].upper(), text)


def split_options(body: str, mark: str = "|") -> list[str]:
    """Splits at ``mark`` where no bracket is open, so that options may nest."""
    options, depth, start = [], 0, 0
    for place, char in enumerate(body):
        depth += (char == "[") - (char == "]")
        if char == mark and depth == 0:
            options.append(body[start:place])
            start = place + 1
    return [*options, body[start:]]


def _sequence(source: str, at: int, slots: Mapping[str, str], rng: Random) -> tuple[str, int]:
    """Expands from ``at`` to the end or to a closing bracket, and says where that is."""
    parts: list[str] = []
    while at < len(source):
        char = source[at]
        if char == "[":
            end = _closing(source, at)
            choice = rng.choice(split_options(source[at + 1 : end]))
            parts.append(expand(choice, slots, rng))
            at = end + 1
        elif char == "{":
            end = source.index("}", at)
            parts.append(_slot(source[at + 1 : end], slots, rng))
            at = end + 1
        elif char == "]":
            return "".join(parts), at
        else:
            end = _next_mark(source, at)
            parts.append(source[at:end])
            at = end
    return "".join(parts), at


def _next_mark(source: str, at: int) -> int:
    while at < len(source) and source[at] not in "[]{":
        at += 1
    return at


def _closing(source: str, at: int) -> int:
    depth = 0
    for place in range(at, len(source)):
        depth += (source[place] == "[") - (source[place] == "]")
        if depth == 0:
            return place
    raise GrammarError(f"bracket never closed in {source!r}")


def _slot(name: str, slots: Mapping[str, str], rng: Random) -> str:
    key = name[0].lower() + name[1:]
    if key not in slots:
        raise GrammarError(f"no slot called {key!r}")
    value = expand(slots[key], slots, rng)
    return value[:1].upper() + value[1:] if name[0].isupper() else value
