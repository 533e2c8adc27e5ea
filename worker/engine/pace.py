"""How many tokens of prompts a step takes: about as many as the machine prefills in half a second.

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

    def __init__(self, most: int) -> None:
        """most: tokens, however fast the machine is."""
        self._most = most
        self.tokens = min(FIRST_TOKENS, most)
        """For the next step."""

    def learn(self, tokens: int, seconds: float) -> None:
        """So many tokens took so long. A few of them say little of many, so nothing grows by them."""
        if seconds > TOLERANCE * STEP_SECONDS:
            right = int(tokens * STEP_SECONDS / seconds)
            self.tokens = min(self.tokens, max(LEAST_TOKENS, 1 << right.bit_length() - 1 if right else 0))
        elif 2 * self.tokens * seconds <= STEP_SECONDS * tokens:
            self.tokens = min(2 * self.tokens, self._most)

    def limit(self, most: int) -> None:
        """Never more than so many tokens from now on."""
        self._most = most
        self.tokens = min(self.tokens, most)
