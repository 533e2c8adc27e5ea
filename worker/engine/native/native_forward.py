"""The native decoder with its cache, as a `Forward`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from worker.engine.forward import Answer, Chunk
from worker.engine.native.decoder import Decoder
from worker.engine.native.rows import RowStates


class NativeForward:
    """See `Forward`. Chunks of any lengths and starts run together, without padding."""

    pads = False
    draws = True

    def __init__(self, decoder: Decoder, states: RowStates) -> None:
        self._decoder = decoder
        self._states = states

    @property
    def progress(self) -> int:
        return self._decoder.layers_done

    def fits(self, lengths: Sequence[int]) -> bool:
        return self._states.fits(lengths)

    def make_room(self, lengths: Sequence[int]) -> None:
        self._states.make_room(lengths)

    def release(self, rows: int) -> None:
        self._states.release(rows)

    def run(self, chunks: Sequence[Chunk]) -> Answer:
        lengths = [len(chunk.token_ids) for chunk in chunks]
        for chunk, length in zip(chunks, lengths, strict=True):
            self._states.ensure(chunk.row, chunk.start + length)
        best, logits = self._decoder(
            token_ids=[token_id for chunk in chunks for token_id in chunk.token_ids],
            rows=[chunk.row for chunk in chunks for _ in chunk.token_ids],
            positions=[position for chunk in chunks for position in range(chunk.start, chunk.end)],
            asked=[end - 1 for end in accumulate(lengths)],
            wanted=[index for index, chunk in enumerate(chunks) if chunk.wants_logits],
            cache=self._states,
            draws=[chunk.draw for chunk in chunks],
        )
        return Answer(best, logits)

    def move(self, source: int, target: int, tokens: int) -> None:  # noqa: ARG002  # Rows move as a whole.
        self._states.exchange(source, target)

    def clear(self, row: int) -> None:
        """Does nothing: a sequence never reads what the one before it has left in the row."""
