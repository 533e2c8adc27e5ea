"""Finds the next token of each running sequence from the answers of the forward pass."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from worker.engine.base import TokenLogprobs
from worker.engine.forward import Answer
from worker.engine.memory import memory_errors
from worker.engine.sampling import NO_TOKEN, Row, Sample, top_logprobs
from worker.engine.transformers.sequence import SequenceState

OUT_OF_MEMORY = "memory did not suffice for this sequence: {}"

NO_MEMORY = -2
"""Stands for a token whose sampling had no memory, like NO_TOKEN."""

REASONS = {
    NO_TOKEN: "the model's output is not a number",
    NO_MEMORY: OUT_OF_MEMORY.format("its next token could not be sampled"),
}
"""Why a sequence has no next token: NO_TOKEN or NO_MEMORY -> message."""

NextToken = tuple[int, TokenLogprobs | None]
"""An id, or a key of REASONS; and its logprobs where they were asked for."""


def next_tokens(
    sequences: Sequence[SequenceState], answers: Sequence[Answer], sample: Sample
) -> list[NextToken]:
    """Returns one for each sequence. answers: those to all of them, in their order."""
    tokens: list[NextToken] = [(token_id, None) for answer in answers for token_id in answer.best]
    if not any(len(answer.logits) for answer in answers):
        return tokens
    wanting = iter([index for index, sequence in enumerate(sequences) if sequence.wants_logits])
    for answer in answers:
        indices = [next(wanting) for _ in range(len(answer.logits))]
        rows = [sequences[index].row(sequences[index].allowed()) for index in indices]
        drawn = _drawn(rows, answer.logits, sample)
        for index, token in zip(indices, drawn, strict=True):
            tokens[index] = token
    return tokens


def _drawn(rows: Sequence[Row], logits: Tensor, sample: Sample) -> list[NextToken]:
    """Draws from logits [rows, vocab]. Where memory does not suffice, draws for halves of them."""
    if not rows:
        return []
    try:
        with memory_errors():
            token_ids = sample(logits, rows)
            counts = [row.sampling.logprobs for row in rows]
            return list(zip(token_ids, top_logprobs(logits, token_ids, counts), strict=True))
    except MemoryError:
        if len(rows) == 1:
            return [(NO_MEMORY, None)]
    half = len(rows) // 2
    first = _drawn(rows[:half], logits[:half], sample)
    return [*first, *_drawn(rows[half:], logits[half:], sample)]
