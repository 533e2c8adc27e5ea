"""Sampling a token for each row of a batch, each with parameters and noise of its own.

Noise is counter-based: a pure function of (seed, choice, position, token id), whatever else is in the
batch and whatever was drawn before. So a sequence that another worker continues draws what the first one
would have.

The token is the Gumbel maximum: argmax(logit / temperature + noise), noise = -log(Exp(1)), which is
distributed as softmax. Inverse-CDF sampling needs one uniform in place of one per token, but rounding moves
every step of the CDF: in the tail, where steps are narrower than the rounding error, each draw becomes
another token. With a Gumbel maximum only near-ties do, so a continued sequence stays true when the batch's
shape, and with it the rounding, has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NO_TOKEN = -1
"""In place of a token where a row's logits allow none: NaN, +inf, or nothing but -inf."""

GREEDY_BELOW = 1e-5
"""A lower temperature is greedy: dividing by it would overflow (vLLM's `_SAMPLING_EPS`)."""

MASK_64 = 2**64 - 1
MASK_32 = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """How one row is sampled. temperature 0 is greedy, top_k 0 and top_p 1 are off.

    key: the row's noise, see `noise_key`.
    """

    temperature: float
    top_k: int
    top_p: float
    key: int

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def is_filtered(self) -> bool:
        return self.top_k > 0 or self.top_p < 1


def noise_key(seed: int, choice: int, position: int) -> int:
    """64 bits that stand for this token's noise. position: how many tokens the output had before."""
    return _mix_64(_mix_64(_mix_64(seed) + choice) + position)


def sample(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """One token id per row of logits [rows, vocab], or NO_TOKEN."""
    logits = logits.float()
    maxima, token_ids = logits.max(dim=-1)
    drawn = [index for index, row in enumerate(rows) if not row.is_greedy]
    if drawn:
        index = torch.tensor(drawn, device=logits.device)
        token_ids[index] = _draw(logits[index], [rows[i] for i in drawn])
    # NaN wins every maximum, so the maximum tells all.
    return torch.where(maxima.isfinite(), token_ids, NO_TOKEN).tolist()


def _draw(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    temperatures = torch.tensor([row.temperature for row in rows], device=logits.device)
    # A tiny temperature must not make an infinity of a large logit.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    scores = (logits / temperatures[:, None]).clamp(min=torch.finfo(logits.dtype).min)
    filtered = [index for index, row in enumerate(rows) if row.is_filtered]
    if filtered:
        index = torch.tensor(filtered, device=logits.device)
        scores[index] = _filter(scores[index], [rows[i] for i in filtered])
    return (scores + _gumbel_noise(rows, scores)).argmax(dim=-1)


def _filter(scores: Tensor, rows: Sequence[Row]) -> Tensor:
    """-inf for all but the top_k best, and of these for all but the fewest that reach top_p together."""
    vocab = scores.shape[-1]
    # Stable: of equal scores the lower id is the better, on every device.
    ordered, token_ids = scores.sort(dim=-1, descending=True, stable=True)
    top_k = torch.tensor([min(row.top_k, vocab) or vocab for row in rows], device=scores.device)
    rank = torch.arange(vocab, device=scores.device)
    ordered = ordered.masked_fill(rank >= top_k[:, None], -torch.inf)
    top_p = torch.tensor([row.top_p for row in rows], device=scores.device)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # 1 is off: the sum of many small floats may exceed it before the last one.
    excess = (before >= top_p[:, None]) & (top_p < 1)[:, None] & (rank > 0)
    return scores.scatter(-1, token_ids, ordered.masked_fill(excess, -torch.inf))


def _gumbel_noise(rows: Sequence[Row], scores: Tensor) -> Tensor:
    """Standard Gumbel noise, as many values as scores [rows, vocab]."""
    low = torch.tensor([[row.key & MASK_32] for row in rows], device=scores.device)
    high = torch.tensor([[row.key >> 32] for row in rows], device=scores.device)
    token_ids = torch.arange(scores.shape[-1], device=scores.device)
    bits = _mix_32(_mix_32(token_ids ^ low) ^ high)
    # -log(1 - u) with u near 0 for the winners: there floats are finest, so no ties among them.
    uniform = ((bits.float() + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)
    return -torch.log(-torch.log1p(-uniform))


def _mix_32(bits: Tensor) -> Tensor:
    """A bijection of 32 bits, held in int64 (`lowbias32` of github.com/skeeto/hash-prospector)."""
    bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & MASK_32
    bits = ((bits ^ (bits >> 15)) * 0x846CA68B) & MASK_32
    return bits ^ (bits >> 16)


def _mix_64(bits: int) -> int:
    """splitmix64 (Steele, Lea, Flood 2014): equidistributed, and close inputs differ everywhere."""
    bits = (bits + 0x9E3779B97F4A7C15) & MASK_64
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK_64
    return bits ^ (bits >> 31)
