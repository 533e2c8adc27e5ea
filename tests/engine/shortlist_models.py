"""Tiny models with shortlists, run natively."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from worker.engine.forward import Draw
from worker.engine.native.decoder import Decoder, decodable_weights
from worker.engine.native.isa import supported
from worker.engine.native.library import NativeLibrary, native_library
from worker.engine.native.rows import RowStates
from worker.engine.native.shortlist import Shortlists
from worker.engine.sampling import best_tokens

VOCAB = 1000
HIDDEN = 64
ROWS = 75
HEAD_DIM = 16
Draws = Sequence[Draw | None] | None


def libraries() -> list[NativeLibrary]:
    """Returns the libraries of the machine's instruction sets that have shortlists."""
    found = [native_library(isa.name) for isa in supported()]
    return [one for one in found if one is not None and one.shortlist_neighbours]


class Model:
    """A tiny random Llama, run natively."""

    def __init__(
        self,
        library: NativeLibrary,
        dtype: torch.dtype,
        change: Callable[[Any], object] | None = None,
        vocab_size: int = VOCAB,
    ) -> None:
        model_class: Any = LlamaForCausalLM
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=HIDDEN,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=HEAD_DIM,
            tie_word_embeddings=False,
        )
        model = model_class(config).to(dtype).eval()
        with torch.no_grad():
            if change is not None:
                change(model)
        weights = decodable_weights(model)
        assert weights is not None
        self.decoder = Decoder(weights, library, 32)
        state = torch.zeros(1, 2, 1, HEAD_DIM, dtype=dtype)
        self._states = RowStates([(state, state)], ROWS, 32)

    def run(self, token_ids: list[int], wanted: list[int], draws: Draws = None) -> tuple[list[int], Tensor]:
        """Runs a first token in each row."""
        rows = list(range(len(token_ids)))
        self._states.make_room([1] * len(rows))
        return self.decoder(token_ids, rows, [0] * len(rows), rows, wanted, self._states, draws)

    def best(self, token_ids: list[int], draws: Draws = None) -> list[int]:
        """Returns the best or drawn tokens, by shortlists."""
        self.decoder._shortlists = Shortlists()
        return self.run(token_ids, [], draws)[0]

    def best_of_logits(self, token_ids: list[int]) -> list[int]:
        return best_tokens(self.run(token_ids, list(range(len(token_ids))))[1]).tolist()

    def drawn(self, token_ids: list[int], draws: Draws) -> list[int]:
        """Returns the drawn tokens, by the head's whole product."""
        return self.run(token_ids, list(range(len(token_ids))), draws)[0]


def of_head(change: Callable[[Tensor], object]) -> Callable[[Any], object]:
    return lambda model: change(model.lm_head.weight)


def some_ids(dice: random.Random, count: int, vocab_size: int = VOCAB) -> list[int]:
    return [dice.randrange(vocab_size) for _ in range(count)]
