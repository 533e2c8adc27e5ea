"""Finds the next token of each running sequence from the answers of the forward pass."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from worker.engine.base import TokenLogprobs
from worker.engine.forward import Answer
from worker.engine.memory import memory_errors
from worker.engine.sampling import NO_TOKEN, Sample, top_logprobs
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
        drawn = _drawn([sequences[index] for index in indices], answer.logits, sample)
        for index, token in zip(indices, drawn, strict=True):
            tokens[index] = token
    return tokens


def _drawn(sequences: Sequence[SequenceState], logits: Tensor, sample: Sample) -> list[NextToken]:
    """Draws from logits [sequences, vocab]. Where memory does not suffice, draws for halves of them."""
    if not sequences:
        return []
    try:
        with memory_errors():
            token_ids = sample(logits, [sequence.row() for sequence in sequences])
            counts = [sequence.sampling.logprobs for sequence in sequences]
            return list(zip(token_ids, top_logprobs(logits, token_ids, counts), strict=True))
    except MemoryError:
        if len(sequences) == 1:
            return [(NO_MEMORY, None)]
    half = len(sequences) // 2
    first = _drawn(sequences[:half], logits[:half], sample)
    return [*first, *_drawn(sequences[half:], logits[half:], sample)]
