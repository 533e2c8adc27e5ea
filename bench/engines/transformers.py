"""transformers' own two ways to generate for several prompts: a static batch and continuous batching."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.engines.base import NEW_TOKENS, PROMPT_TOKENS, STREAMS, Engine, Generate
from worker.cores import usable_cores

PAGE_TOKENS = 32


def static_batch(folder: Path, precision: str) -> Generate:
    import torch

    model = _model(folder, precision)
    # So that no sequence ends early. A logits processor could prevent that too, but takes time in each step.
    model.generation_config.eos_token_id = None

    def generate(batch: list[list[int]], temperature: float) -> list[list[int]]:
        ids = torch.tensor(batch)
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            pad_token_id=0,
            **_sampling(temperature),
        )
        tokens: list[list[int]] = output[:, PROMPT_TOKENS:].tolist()
        return tokens

    return generate


def continuous_batching(folder: Path, precision: str) -> Generate:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = _model(folder, precision)
    # It would take most of the machine's memory.
    pages = max(STREAMS) * (PROMPT_TOKENS + NEW_TOKENS) // PAGE_TOKENS
    memory = ContinuousBatchingConfig(
        page_size=PAGE_TOKENS, num_blocks=2 * pages, max_batch_tokens=max(STREAMS) * PROMPT_TOKENS
    )

    def generate(batch: list[list[int]], temperature: float) -> list[list[int]]:
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=NEW_TOKENS, eos_token_id=-1, pad_token_id=0, **_sampling(temperature)
        )
        outputs = model.generate_batch(batch, generation_config=config, continuous_batching_config=memory)
        by_prompt = {tuple(output.prompt_ids): output.generated_tokens for output in outputs.values()}
        return [by_prompt[tuple(prompt)] for prompt in batch]

    return generate


def _model(folder: Path, precision: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(usable_cores())
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision))
    return model.eval()


def _sampling(temperature: float) -> dict[str, Any]:
    """Returns arguments of a GenerationConfig. Its default top_k would keep only the best 50 tokens."""
    if temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}


STATIC_BATCH = Engine("generate, static batch", static_batch, ("float32", "bfloat16"))
CONTINUOUS_BATCHING = Engine(
    "transformers' continuous batching", continuous_batching, ("float32", "bfloat16")
)
