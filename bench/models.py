"""The models that `bench.engine` measures with: two of random weights, and the bundled one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUNDLED = ROOT / "worker" / "models" / "bundled"


def save_opt_125m(folder: Path) -> Path:
    """facebook/opt-125m's shape: 12 layers, 768 wide, vocabulary 50272; 125 million parameters."""
    from transformers import OPTConfig

    return _save_random(OPTConfig(), folder)  # Its defaults are this model's shape.


def save_llama_134m(folder: Path) -> Path:
    """A Llama of the same depth and width, with Llama 2's vocabulary of 32000; 134 million parameters."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        vocab_size=32_000,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    return _save_random(config, folder)


def _save_random(config: Any, folder: Path) -> Path:
    """Saves random weights and the bundled tokenizer, which the benchmarks do not use."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    for file in BUNDLED.glob("*token*.json"):
        shutil.copy(file, folder)
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {
    "opt-125m": save_opt_125m,
    "llama-134m": save_llama_134m,
    "bundled": lambda _: BUNDLED,
}
"""Name -> function that returns the model's folder. It may write the model to the folder that it is given."""
