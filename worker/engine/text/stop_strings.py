"""Finds the stop string that ends an output, while its text comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FIRST_MARK = 0xD800
"""The surrogates: no text that is decoded from UTF-8 holds one."""


class OutputStops:
    """Cuts an output before its first stop string. A stop string may name special tokens, which show nothing.

    A special token that a stop string names becomes a *mark*: a character of its own, in the stop strings and
    in the output. Stop strings with marks are looked for in the output with its marks. Then the marks are
    removed from what is left, and all stop strings are looked for in that.
    """

    def __init__(self, stop: Sequence[str], special_tokens: Mapping[int, str]) -> None:
        """special_tokens: id -> text."""
        named = {text for text in special_tokens.values() if text and any(text in one for one in stop)}
        # The longest first, because one may begin with another.
        texts = sorted(named, key=len, reverse=True)
        marks = {text: chr(FIRST_MARK + index) for index, text in enumerate(texts)}
        self._marks = {token_id: marks[text] for token_id, text in special_tokens.items() if text in marks}
        self._without_marks = {ord(mark): None for mark in marks.values()}
        marked = [_replace_all(one, marks) for one in stop]
        self._marked = StopStrings([one for one in marked if one not in stop])
        self._plain = StopStrings(stop)
        self.is_empty = not stop
        """Whether there is nothing to look for."""

    @property
    def found(self) -> bool:
        return self._marked.found or self._plain.found

    def mark_of(self, token_id: int) -> str | None:
        """Returns the mark of a special token, for `push`; None for an id that no stop string names."""
        return self._marks.get(token_id)

    def push(self, text: str) -> str:
        """Takes the next piece. Returns the text that certainly comes before any stop string."""
        return self._show(self._marked.push(text), is_end=self._marked.found)

    def finish(self) -> str:
        """Ends the output. Returns the text that was held back."""
        return self._show(self._marked.finish(), is_end=True)

    def _show(self, text: str, *, is_end: bool) -> str:
        shown = self._plain.push(text.translate(self._without_marks))
        return shown + self._plain.finish() if is_end else shown


class StopStrings:
    """Cuts a text before its first stop string, however the text is split.

    The match that starts first wins. So a match has to wait while an earlier, longer one is possible. If
    the text ends before that, `finish` finds the match. Where two start together, either may win, because the
    text before them is the same.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._longest = max(map(len, stop), default=0)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Takes the next piece. Returns the text that certainly comes before any stop string."""
        if not self._stop or not text:
            return text
        self._held += text
        undecided = self._undecided()
        start = self._earliest_match()
        if start is not None and start <= undecided:
            return self._cut(start)
        shown, self._held = self._held[:undecided], self._held[undecided:]
        return shown

    def finish(self) -> str:
        """Ends the text. Returns the part that was held back."""
        start = self._earliest_match()
        if start is not None:
            return self._cut(start)
        shown, self._held = self._held, ""
        return shown

    def _cut(self, start: int) -> str:
        self.found = True
        shown, self._held = self._held[:start], ""
        return shown

    def _earliest_match(self) -> int | None:
        starts = [start for stop in self._stop if (start := self._held.find(stop)) >= 0]
        return min(starts, default=None)

    def _undecided(self) -> int:
        """Returns where the longest end of the held text begins that may become a stop string."""
        length = len(self._held)
        for start in range(max(0, length - self._longest + 1), length):
            end = self._held[start:]
            if any(stop.startswith(end) for stop in self._stop):
                return start
        return length


def _replace_all(text: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text
