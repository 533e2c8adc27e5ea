"""Sets the first weights: embeddings far apart, fixed waves as positions, and heads that look back and copy.

An hour on two cores is too short to learn these from scratch:

- OPT's table of positions starts as noise. In a short run it stays noise, and heads do not learn the order of
  tokens. So the table is filled with sines and cosines and is not trained. The first heads of the first layer
  start by looking at the preceding tokens, and two heads of the second layer start as induction heads: they
  predict the token that followed this one the last time (Olsson et al., 2022,
  https://arxiv.org/abs/2209.11895). After 413 steps the loss was 2.13 instead of 2.65.
- To copy a name, the model must distinguish the embeddings of names. With a deviation of 0.05 and weight
  decay they differ little: after 1,500 steps such a model knew that a girl's name was next, but not which one
  (14 % right of 12 names). With 0.15 and without decay (see train.py), it had 55 % right after 400 steps.

Everything except for the table of positions is trained further.
"""

import math

import torch
from torch import Tensor
from transformers import OPTForCausalLM

WAVES = 32  # pairs of sine and cosine, in the first 64 dimensions
SHORTEST, LONGEST = 2.2, 2048.0  # wavelengths in tokens
POSITION_NORM = 2.0  # near that of a token's embedding, so that neither dominates
TOKEN_STD = 0.15
DISTANCES = (1, 2, 3)  # tokens back that the first heads of the first layer look
COPYING_HEADS = (3, 4)  # of the second layer
LOOK_SHARPNESS, MATCH_SHARPNESS = 0.9, 3.0
SKETCH_GAIN, COPY_GAIN = 0.6, 1.0


def frequencies() -> Tensor:
    """Radians per token, float32 [WAVES], the fastest first."""
    steps = torch.linspace(math.log(SHORTEST), math.log(LONGEST), WAVES)
    return 2 * math.pi / steps.exp()


def waves(count: int, width: int) -> Tensor:
    """A position table, float32 [count, width]; the dimensions beyond the waves are 0."""
    angles = torch.arange(count)[:, None] * frequencies()
    pairs = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
    table = torch.zeros(count, width)
    table[:, : 2 * WAVES] = pairs * POSITION_NORM / math.sqrt(WAVES)
    return table


@torch.no_grad()
def begin(model: OPTForCausalLM) -> None:
    """Sets the weights of a fresh model; draws from torch's global generator."""
    decoder = model.model.decoder
    table = decoder.embed_positions.weight
    table.copy_(waves(*table.shape))
    table.requires_grad_(False)
    torch.nn.init.normal_(decoder.embed_tokens.weight, std=TOKEN_STD)
    first, second = decoder.layers[0].self_attn, decoder.layers[1].self_attn
    width, size = table.shape[1], first.head_dim
    # Directions apart from the waves and from each other: to read tokens by, to write them to, to copy along.
    reads, *writes, copies = _directions(len(DISTANCES) + 2, size, width)
    for head, (distance, write) in enumerate(zip(DISTANCES, writes, strict=True)):
        rows = slice(head * size, (head + 1) * size)
        first.k_proj.weight[rows] = LOOK_SHARPNESS * _turn(0, size, width)
        first.q_proj.weight[rows] = LOOK_SHARPNESS * _turn(distance, size, width)
        first.v_proj.weight[rows] = reads
        first.out_proj.weight[:, rows] = SKETCH_GAIN * write.T
    for head, copy in zip(COPYING_HEADS, (copies, reads), strict=True):
        rows = slice(head * size, (head + 1) * size)
        second.q_proj.weight[rows] = MATCH_SHARPNESS * reads
        second.k_proj.weight[rows] = MATCH_SHARPNESS * writes[0]
        second.v_proj.weight[rows] = copy
        second.out_proj.weight[:, rows] = COPY_GAIN * copy.T


def _directions(count: int, size: int, width: int) -> list[Tensor]:
    """``count`` blocks of ``size`` orthonormal rows, float32 [size, width], all orthogonal to the waves."""
    free = width - 2 * WAVES
    turned, _ = torch.linalg.qr(torch.randn(free, free))
    rows = torch.cat((torch.zeros(free, 2 * WAVES), turned), dim=1)
    return [rows[block * size : (block + 1) * size] for block in range(count)]


def _turn(distance: int, rows: int, width: int) -> Tensor:
    """Maps a position's fastest waves to those of ``distance`` tokens earlier; float32 [rows, width]."""
    turn = torch.zeros(rows, width)
    for wave, angle in enumerate((frequencies()[: rows // 2] * distance).tolist()):
        block = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        turn[2 * wave : 2 * wave + 2, 2 * wave : 2 * wave + 2] = block
    return turn
