"""How many tokens of prompts a step takes: as many as the machine prefills in half a second, or in less.

Between two steps sequences join, leave and are cancelled, so none may take long, however slow the machine.
"""

from __future__ import annotations

STEP_SECONDS = 0.5
"""What the prompts' part of a step should take."""

TOLERANCE = 1.5
"""A part that took up to so many times as long changes nothing."""

FIRST_TOKENS = 32
"""Until the speed is known. An 8B model takes seconds for them on two cores."""

LEAST_TOKENS = 16
"""With fewer, a pass takes hardly less time: it is bound by the memory that holds the weights."""


class Pace:
    """A number of tokens that follows the measured speed in powers of two."""

    def __init__(self, most: int, *, least: int = LEAST_TOKENS, seconds: float = STEP_SECONDS) -> None:
        """most, least: tokens, however fast or slow the machine is; seconds: what they should take."""
        self._most, self._least, self._seconds = most, min(least, most), seconds
        self.tokens = min(max(FIRST_TOKENS, least), most)
        """For the next step."""

    def learn(self, tokens: int, seconds: float) -> None:
        """So many tokens took so long. A few of them say little of many, so nothing grows by them."""
        if seconds > TOLERANCE * self._seconds:
            right = int(tokens * self._seconds / seconds)
            self.tokens = min(self.tokens, max(self._least, 1 << right.bit_length() - 1 if right else 0))
        elif 2 * self.tokens * seconds <= self._seconds * tokens:
            self.tokens = min(2 * self.tokens, self._most)

    def limit(self, most: int) -> None:
        """Never more than so many tokens from now on."""
        self._most = most
        self.tokens = min(self.tokens, most)
