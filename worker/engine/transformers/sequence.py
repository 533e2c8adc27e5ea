"""A sequence of the transformers engine, from its request to its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from tasks.job import FinishReason
from worker.engine.base import Matcher, RequestOutput, SamplingParams
from worker.engine.forward import Chunk, Draw
from worker.engine.penalties import Penalties
from worker.engine.sampling import Row, choice_key, is_greedy, noise_key_at


@dataclass(slots=True, eq=False)
class SequenceState:
    """What the engine knows about a sequence.

    token_ids: those of prompt and output. While a sequence runs, all but the last are in the cache.
    prefilled: how many are in the cache while it joins; 0 while it waits.
    wants_logits: whether its next tokens are sampled from logits, and not by the forward pass.
    arrival: its number in the order of arrival.
    matcher: of the grammar that restricts its output; None where none does.
    """

    request_id: str
    token_ids: list[int]
    prompt_tokens: int
    sampling: SamplingParams
    wants_logits: bool = False
    penalties: Penalties | None = None
    prefilled: int = 0
    arrival: int = 0
    matcher: Matcher | None = None
    max_tokens: int = field(init=False)
    """The most tokens that prompt and output may have."""
    is_greedy: bool = field(init=False)
    choice_key: int = field(init=False)
    """The part of the noise that all its tokens share."""

    def __post_init__(self) -> None:
        self.max_tokens = self.prompt_tokens + self.sampling.max_tokens
        self.is_greedy = is_greedy(self.sampling)
        self.choice_key = choice_key(self.sampling.seed, self.sampling.choice)

    @property
    def output_tokens(self) -> int:
        return len(self.token_ids) - self.prompt_tokens

    def last(self, row: int) -> Chunk:
        """Returns its newest token, to run in its row of the cache."""
        return Chunk(row, len(self.token_ids) - 1, self.token_ids[-1:], self.wants_logits, self.draw())

    def rest(self, row: int, most: int) -> Chunk:
        """Returns its first `most` tokens that are not in the cache yet."""
        token_ids = self.token_ids[self.prefilled : self.prefilled + most]
        return Chunk(row, self.prefilled, token_ids, self.wants_logits, self.draw())

    def draw(self) -> Draw | None:
        """Returns how the forward pass draws its next token; None where it takes the argmax."""
        return None if self.wants_logits or self.is_greedy else self.row().draw

    def row(self, allowed: Tensor | None = None) -> Row:
        """Returns how its next token is sampled. allowed: see `Row`."""
        return Row(self.sampling, noise_key_at(self.output_tokens, self.choice_key), self.penalties, allowed)

    def allowed(self) -> Tensor | None:
        """Returns which tokens its grammar allows next; None where there is no grammar, or it has ended."""
        return None if self.matcher is None else self.matcher.allowed(may_end=not self.sampling.ignore_eos)

    def failure(self, reason: str) -> RequestOutput:
        """Returns the last output of a sequence that cannot go on."""
        return RequestOutput(self.request_id, (), FinishReason.ERROR, reason)
