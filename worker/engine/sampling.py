"""Sampling a token for each row of a batch, each with parameters and noise of its own.

Noise is counter-based: a pure function of (seed, choice, position, token id), independent of the rest of the
batch and of what was drawn before. So a sequence that another worker continues draws the same tokens as it
would have on the first one.

The token is the Gumbel maximum: argmax(logit / temperature + noise), noise = -log(Exp(1)), which is
distributed as softmax. Inverse-CDF sampling needs one uniform number instead of one for each token, but
rounding moves every step of the CDF: in the tail, where steps are narrower than the rounding error, each draw
becomes another token. With the Gumbel maximum only near-ties do. So a continued sequence stays the same when
the batch's shape, and with it the rounding, has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.base import SamplingParams, TokenLogprobs
from worker.engine.forward import Draw
from worker.engine.penalties import Penalties

NO_TOKEN = -1
"""Stands for a token where a row's logits allow none: NaN, +inf, or nothing but -inf."""

GREEDY_BELOW = 1e-5
"""Lower temperatures mean greedy: dividing by them would overflow (vLLM's `_SAMPLING_EPS`)."""

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have (OpenAI does the same)."""

MASK_64 = 2**64 - 1
MASK_32 = 2**32 - 1


def is_greedy(sampling: SamplingParams) -> bool:
    """Returns whether the next token is the argmax."""
    return sampling.temperature < GREEDY_BELOW


@dataclass(frozen=True, slots=True)
class Row:
    """How one row is sampled.

    key: the row's noise, see `noise_key`. penalties: None where all are off.
    allowed: whether each token may be drawn, bool [vocab]; None where all may.
    """

    sampling: SamplingParams
    key: int
    penalties: Penalties | None = None
    allowed: Tensor | None = None

    @property
    def is_greedy(self) -> bool:
        return is_greedy(self.sampling)

    @property
    def is_filtered(self) -> bool:
        """Whether `top_k` or `top_p` is on."""
        return self.sampling.top_k > 0 or self.sampling.top_p < 1

    @property
    def is_plain(self) -> bool:
        """Whether `draw` says all about how the row is sampled."""
        return self.is_greedy or not (self.is_filtered or self.sampling.min_p > 0)

    @property
    def draw(self) -> Draw | None:
        """How the row is drawn without filters and penalties; None: greedily."""
        return None if self.is_greedy else Draw(1 / self.sampling.temperature, self.key)


def wants_logits(
    sampling: SamplingParams, penalties: Penalties | None, *, is_restricted: bool, draws: bool
) -> bool:
    """Whether a sequence's logits are needed: its next token takes more than argmax or `Draw`.

    is_restricted: whether a grammar allows only some tokens. draws: whether the forward pass takes a `Draw`.
    """
    row = Row(sampling, 0)
    is_given = row.is_greedy or (row.is_plain and draws)
    return not is_given or is_restricted or penalties is not None or sampling.logprobs is not None


Sample = Callable[[Tensor, Sequence[Row]], list[int]]
"""One token id per row of logits [rows, vocab], or NO_TOKEN: `sample`, or the same in C."""


def noise_key(seed: int, choice: int, position: int) -> int:
    """Returns 64 bits that decide a token's noise. position: how many tokens the output had before."""
    return noise_key_at(position, choice_key(seed, choice))


def choice_key(seed: int, choice: int) -> int:
    """Returns the part of `noise_key` that a choice's tokens share."""
    return _mix_64(_mix_64(seed) + choice)


def noise_key_at(position: int, of_choice: int) -> int:
    """Returns a token's `noise_key`. of_choice: from `choice_key`."""
    return _mix_64(of_choice + position)


def sample(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """Returns one token id for each row of logits [rows, vocab], or NO_TOKEN."""
    logits = adjusted(logits.float(), rows)
    token_ids = best_tokens(logits)
    drawn = [index for index, row in enumerate(rows) if not row.is_greedy]
    if drawn:
        index = torch.tensor(drawn, device=logits.device)
        tokens = _draw(logits[index], [rows[i] for i in drawn])
        token_ids[index] = torch.where(token_ids[index] == NO_TOKEN, NO_TOKEN, tokens)
    return token_ids.tolist()


def best_tokens(logits: Tensor) -> Tensor:
    """Returns the argmax of each row of logits [rows, vocab] (ties go to the lowest id), or NO_TOKEN."""
    token_ids = logits.argmax(dim=-1)  # It takes the first of equals, and is twice as fast as `max`.
    maxima = logits.gather(-1, token_ids[:, None])[:, 0]
    # NaN wins every maximum, so the maximum shows whether there is one.
    return torch.where(maxima.isfinite(), token_ids, NO_TOKEN)


def top_logprobs(
    logits: Tensor, token_ids: Sequence[int], counts: Sequence[int | None]
) -> list[TokenLogprobs | None]:
    """Returns, for each row of logits [rows, vocab], the logprobs of its token and of its best ones.

    counts: how many best ones for each row; None: no logprobs at all.
    """
    answer: list[TokenLogprobs | None] = [None] * len(counts)
    asked = [index for index, count in enumerate(counts) if count is not None]
    if not asked:
        return answer
    index = torch.tensor(asked, device=logits.device)
    chosen = torch.tensor([[max(token_ids[i], 0)] for i in asked], device=logits.device)
    logprobs = logits[index].float().log_softmax(dim=-1).clamp_(min=LEAST_LOGPROB)
    best = logprobs.topk(min(max(counts[i] or 0 for i in asked), logprobs.shape[-1]), dim=-1)
    of_token = logprobs.gather(-1, chosen)[:, 0].tolist()
    for i, logprob, ids, values in zip(
        asked, of_token, best.indices.tolist(), best.values.tolist(), strict=True
    ):
        answer[i] = TokenLogprobs(logprob, tuple(zip(ids, values, strict=True))[: counts[i]])
    return answer


def adjusted(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Returns logits [rows, vocab] after each row's mask of allowed tokens and its penalties."""
    changing = [
        index for index, row in enumerate(rows) if row.allowed is not None or row.penalties is not None
    ]
    if changing:
        logits = logits.clone()
        for index in changing:
            _adjust(logits[index], rows[index])
    return logits


def _adjust(logits: Tensor, row: Row) -> None:
    """Changes one row's logits, [vocab], in place."""
    if row.allowed is not None:
        allowed = row.allowed.to(logits.device)
        logits[len(allowed) :] = -torch.inf
        logits[: len(allowed)].masked_fill_(~allowed[: len(logits)], -torch.inf)
    if row.penalties is not None:
        row.penalties.apply(logits)


def _draw(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    temperatures = torch.tensor([row.sampling.temperature for row in rows], device=logits.device)
    # A tiny temperature must not turn a large logit into infinity.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    scores = (logits / temperatures[:, None]).clamp(min=torch.finfo(logits.dtype).min)
    if any(row.sampling.min_p > 0 for row in rows):
        # The best score is 0, so a share of the best probability is a difference from it.
        shares = torch.tensor([[row.sampling.min_p] for row in rows], device=scores.device)
        scores = scores.masked_fill(scores < shares.log(), -torch.inf)
    filtered = [index for index, row in enumerate(rows) if row.is_filtered]
    if filtered:
        index = torch.tensor(filtered, device=logits.device)
        scores[index] = _filter(scores[index], [rows[i] for i in filtered])
    return (scores + _gumbel_noise(rows, scores)).argmax(dim=-1)


def _filter(scores: Tensor, rows: Sequence[Row]) -> Tensor:
    """Sets to -inf all but the top_k best, and of these all but the fewest that reach top_p together."""
    vocab = scores.shape[-1]
    ks = [min(row.sampling.top_k, vocab) or vocab for row in rows]
    best = scores.topk(max(ks), dim=-1).values if max(ks) < vocab else scores.sort(descending=True).values
    rank = torch.arange(max(ks), device=scores.device)
    top_k = torch.tensor(ks, device=scores.device)
    best = best.masked_fill(rank >= top_k[:, None], -torch.inf)
    probabilities = best.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # 1 is off: the sum of many small floats may exceed it before the last one.
    shares = [row.sampling.top_p for row in rows]
    top_p = torch.tensor([share if share < 1 else 2 for share in shares], device=scores.device)
    kept = ((before < top_p[:, None]) & (best > -torch.inf)).sum(dim=-1, keepdim=True).clamp(min=1)
    return _keep_best(scores, kept, best.gather(-1, kept - 1))


def _keep_best(scores: Tensor, count: Tensor, worst: Tensor) -> Tensor:
    """Sets to -inf all but the best; ties go to lower ids. count, worst: [rows, 1], the last one's score."""
    above, ties = scores > worst, scores == worst
    room = count - above.sum(dim=-1, keepdim=True)
    return scores.masked_fill(~(above | (ties & (ties.cumsum(dim=-1) <= room))), -torch.inf)


def _gumbel_noise(rows: Sequence[Row], scores: Tensor) -> Tensor:
    """Returns standard Gumbel noise in the shape of scores [rows, vocab]."""
    token_ids = torch.arange(scores.shape[-1], dtype=torch.int32, device=scores.device)
    low = torch.tensor([[_signed_32(row.key)] for row in rows], dtype=torch.int32, device=scores.device)
    high = torch.tensor(
        [[_signed_32(row.key >> 32)] for row in rows], dtype=torch.int32, device=scores.device
    )
    bits = _mix_32(_mix_32(token_ids)[None] ^ low, high)
    # 31 bits, because a sign would cost precision near 0, where the winners are: -log(-log(1 - u)).
    uniform = (bits & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31).clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def _mix_32(bits: Tensor, key: Tensor | int = 0) -> Tensor:
    """Scrambles int32, with a key halfway (`lowbias32` of github.com/skeeto/hash-prospector)."""
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    bits.mul_(0x7FEB352D).add_(key)
    bits.bitwise_xor_((bits >> 15) & 0x1FFFF).mul_(_signed_32(0x846CA68B))
    return bits.bitwise_xor_((bits >> 16) & 0xFFFF)


def _signed_32(bits: int) -> int:
    """Returns the low 32 bits as a signed int32."""
    return ((bits + 2**31) & MASK_32) - 2**31


def _mix_64(bits: int) -> int:
    """splitmix64 (Steele, Lea, Flood 2014): equidistributed, and close inputs differ everywhere."""
    bits = (bits + 0x9E3779B97F4A7C15) & MASK_64
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK_64
    return bits ^ (bits >> 31)
