"""The angles of rotary positions, computed once for each position by transformers' own code."""

from __future__ import annotations

import torch

from worker.engine.native.weights import Rotary

FIRST_POSITIONS = 256
"""How many positions are computed at first. After that it is twice as many as before."""


class RotaryAngles:
    """Cosines and sines of all positions that were needed so far, in memory that C reads."""

    def __init__(self, rotary: Rotary, max_positions: int) -> None:
        """max_positions: no more are computed, because some models turn all positions differently where a
        batch has one that is beyond their length.
        """
        self._rotary = rotary
        self._max_positions = max_positions
        self._cosines, self._sines = torch.empty(0), torch.empty(0)

    def up_to(self, position: int) -> tuple[int, int]:
        """Returns the addresses of float32 [positions, head_dim], with at least this position."""
        known = len(self._cosines)
        if position >= known:
            self._compute(min(max(FIRST_POSITIONS, 2 * known, position + 1), self._max_positions))
        return self._cosines.data_ptr(), self._sines.data_ptr()

    @torch.inference_mode()
    def _compute(self, count: int) -> None:
        angles = self._rotary(torch.empty(0, dtype=torch.float32), torch.arange(count)[None])
        self._cosines, self._sines = (one[0].contiguous() for one in angles)
