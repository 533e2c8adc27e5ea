"""Measures how much of a text is copied from another: the share of its 8-grams that the other has, too."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

GRAM_WORDS = 8
_WORD = re.compile(r"\w+(?:['-]\w+)*")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing modulo 2**64
_BETWEEN = 0  # the word number that parts documents; no looked-up gram contains it
_UNKNOWN = 1  # a word the training text does not have


class GramIndex:
    """All 8-grams of a training text, as sorted 64-bit hashes. Words are compared in lower case."""

    def __init__(self, documents: Iterable[str]) -> None:
        self._numbers: dict[str, int] = {}
        row = [_BETWEEN]
        for document in documents:
            row += [self._numbers.setdefault(word, len(self._numbers) + 2) for word in words(document)]
            row.append(_BETWEEN)
        self._grams = np.unique(_hashes(row))

    def __len__(self) -> int:
        return len(self._grams)

    def hits(self, text: str) -> list[bool]:
        """For each 8-gram of ``text``, whether the training text has it."""
        row = [self._numbers.get(word, _UNKNOWN) for word in words(text)]
        grams = _hashes(row)
        places = np.searchsorted(self._grams, grams).clip(max=len(self._grams) - 1)
        return [bool(hit) for hit in self._grams[places] == grams]


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def share(hits: Sequence[Sequence[bool]]) -> float:
    """Hits over all grams of all texts, 0 to 1."""
    return sum(map(sum, hits)) / max(1, sum(map(len, hits)))


def longest_run_words(hits: Sequence[bool]) -> int:
    """An upper bound on the longest passage, in words, that the training text has: hits in a row, plus 7."""
    best = run = 0
    for hit in hits:
        run = run + 1 if hit else 0
        best = max(best, run)
    return best + GRAM_WORDS - 1 if best else 0


def _hashes(row: Sequence[int]) -> npt.NDArray[np.uint64]:
    ids = np.asarray(row, dtype=np.uint64)
    count = max(0, len(ids) - GRAM_WORDS + 1)
    mixed = np.zeros(count, dtype=np.uint64)
    for place in range(GRAM_WORDS):
        mixed = (mixed ^ ids[place : place + count]) * _FACTOR
        mixed ^= mixed >> np.uint64(29)
    return mixed
