"""Runs any causal language model of transformers by its own code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worker.engine.forward import Answer, Chunk
from worker.engine.sampling import best_tokens
from worker.engine.torch.masks import Masks, Style
from worker.engine.torch.slot_cache import SlotCache, SlotStates, Window


class TorchForward:
    """See `Forward`. It runs the model once for all chunks, and pads prompts to the longest."""

    pads = True
    draws = False

    def __init__(self, model: Any, states: SlotStates, masks: Masks) -> None:
        """model: of type Any, because transformers annotates each model's `forward`, but not `__call__`.

        masks: in the style of the attention that the model is set to.
        """
        self._model = model
        self._device: torch.device = model.device
        self._states = states
        self._cache = SlotCache(states)
        self._masks = masks

    @property
    def progress(self) -> int:
        return self._cache.updates

    def fits(self, lengths: Sequence[int]) -> bool:
        return self._states.fits(lengths)

    def make_room(self, lengths: Sequence[int]) -> None:
        self._states.make_room(lengths)

    def release(self, rows: int) -> None:
        self._states.release(rows)

    def move(self, source: int, target: int, tokens: int) -> None:
        self._states.move(source, target, tokens)

    def clear(self, row: int) -> None:
        """Clears a row. Masking multiplies by 0, and 0 · NaN would spoil the next sequence of the row."""
        self._states.clear(row)

    def run(self, chunks: Sequence[Chunk]) -> Answer:
        logits = self._logits(chunks).float()
        wanted = [index for index, chunk in enumerate(chunks) if chunk.wants_logits]
        return Answer(best_tokens(logits).tolist(), logits[wanted])

    def _logits(self, chunks: Sequence[Chunk]) -> Tensor:
        """Returns the logits after each chunk's last token, [chunks, vocab]."""
        if all(len(chunk.token_ids) == 1 for chunk in chunks):
            return self._decode(chunks)
        if len(chunks) == 1:
            return self._extend(chunks[0])
        return self._prefill(chunks)

    def _prefill(self, chunks: Sequence[Chunk]) -> Tensor:
        """Runs prompts, padded on the right to one length.

        Padding needs no mask. It comes after all real tokens, so causal attention hides it, and the
        sequence's next tokens overwrite it in the cache.
        """
        if any(chunk.start for chunk in chunks):
            raise ValueError("several prompts must run from their start on")
        longest = max(chunk.end for chunk in chunks)
        token_ids = self._tensor([[*c.token_ids, *[0] * (longest - c.end)] for c in chunks])
        positions = torch.arange(longest, device=self._device).expand(len(chunks), -1)
        ends, at = torch.unique(self._tensor([chunk.end - 1 for chunk in chunks]), return_inverse=True)
        window = Window(chunks[0].row, positions, longest)
        logits = self._pass(token_ids, window, chunks, logits_to_keep=ends)
        return logits[torch.arange(len(chunks), device=self._device), at]

    def _extend(self, chunk: Chunk) -> Tensor:
        positions = torch.arange(chunk.start, chunk.end, device=self._device)[None]
        window = Window(chunk.row, positions, chunk.end)
        return self._pass(self._tensor([chunk.token_ids]), window, [chunk])[:, -1]

    def _decode(self, chunks: Sequence[Chunk]) -> Tensor:
        token_ids = self._tensor([chunk.token_ids for chunk in chunks])
        positions = self._tensor([chunk.start for chunk in chunks])[:, None]
        longest = max(chunk.end for chunk in chunks)
        if self._masks.style is Style.PRODUCTS:
            longest = self._states.readable(longest)
        return self._pass(token_ids, Window(chunks[0].row, positions, longest), chunks)[:, -1]

    def _pass(
        self, token_ids: Tensor, window: Window, chunks: Sequence[Chunk], logits_to_keep: int | Tensor = 1
    ) -> Tensor:
        """Returns logits [rows, kept, vocab]."""
        is_start = all(chunk.start == 0 for chunk in chunks)
        self._cache.open(window)
        output = self._model(
            input_ids=token_ids,
            attention_mask=self._masks.of(window, [chunk.end for chunk in chunks], is_start=is_start),
            position_ids=window.positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        )
        logits: Tensor = output.logits
        return logits

    def _tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, device=self._device)
