"""How many tokens of prompts a step takes: as many as the machine prefills in half a second or less.

Sequences join, leave and are cancelled between two steps, so no step may take long, even on a slow machine.
"""

from __future__ import annotations

STEP_SECONDS = 0.5
"""How long the prompts' part of a step should take."""

TOLERANCE = 1.5
"""A part that took up to this many times as long changes nothing."""

FIRST_TOKENS = 32
"""Used until the speed is known. An 8B model takes seconds for them on two cores."""

LEAST_TOKENS = 16
"""A pass of fewer takes hardly less time: it is bound by reading the weights."""


class Pace:
    """A number of tokens that follows the measured speed in powers of two."""

    def __init__(self, most: int, *, least: int = LEAST_TOKENS, seconds: float = STEP_SECONDS) -> None:
        """most, least: tokens, however fast or slow the machine is. seconds: how long they should take."""
        self._most, self._least, self._seconds = most, min(least, most), seconds
        self.tokens = min(max(FIRST_TOKENS, least), most)
        """How many the next step takes."""

    def learn(self, tokens: int, seconds: float) -> None:
        """Learns that `tokens` took `seconds`. A few tokens say little about many, so they raise nothing."""
        if seconds > TOLERANCE * self._seconds:
            right = int(tokens * self._seconds / seconds)
            self.tokens = min(self.tokens, max(self._least, 1 << right.bit_length() - 1 if right else 0))
        elif 2 * self.tokens * seconds <= self._seconds * tokens:
            self.tokens = min(2 * self.tokens, self._most)

    def limit(self, most: int) -> None:
        """Takes at most `most` tokens from now on."""
        self._most = most
        self.tokens = min(self.tokens, most)
