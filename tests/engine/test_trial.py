"""A model that runs with torch is only served if it computes what transformers' own code does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    DogeConfig,
    FalconConfig,
    Gemma2Config,
    GPTJConfig,
    GptOssConfig,
    HunYuanMoEV1Config,
    MixtralConfig,
)

from tasks.errors import EngineError
from tests.engine.tiny import engine_request, generate, save_model, settings_for, tokenizer
from worker.engine.forward import Answer, Chunk
from worker.engine.loading.trial import Trial
from worker.engine.torch.masks import Style
from worker.engine.torch.torch_forward import TorchForward
from worker.engine.transformers.engine import TransformersEngine

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "head_dim": 16,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
MIXTURE: dict[str, Any] = {**SIZES, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
NO_WINDOW: dict[str, Any] = {"sliding_window": 96}


def save_config(folder: Path, config: Any, seed: int = 7) -> Path:
    """Saves a random model of a configuration, with the tests' tokenizer."""
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def plain_config(config_class: Any, **changes: Any) -> Any:
    return config_class(**{**SIZES, **changes})


def style_of(engine: TransformersEngine) -> Style:
    assert isinstance(engine._forward, TorchForward)
    return engine._forward._masks.style


@torch.inference_mode()
def as_eager_attention_writes(folder: Path, prompt: Sequence[int], tokens: int) -> list[int]:
    """Generates one token at a time without a cache, which cannot be wrong."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    token_ids = list(prompt)
    for _ in range(tokens):
        logits: Tensor = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits
        token_ids.append(int(logits[0, -1].argmax()))
    return token_ids[len(prompt) :]


@pytest.mark.parametrize(
    ("config", "style"),
    [
        pytest.param(plain_config(DogeConfig), Style.BOOLEAN, id="a mask of its own"),
        pytest.param(
            plain_config(Gemma2Config, attn_logit_softcapping=2.0, **NO_WINDOW),
            Style.ADDED,
            id="capped scores",
        ),
        pytest.param(GptOssConfig(**MIXTURE, **NO_WINDOW), Style.ADDED, id="attention sinks"),
        pytest.param(
            GPTJConfig(vocab_size=320, n_embd=64, n_layer=2, n_head=4, n_positions=96, rotary_dim=8),
            Style.ADDED,
            id="only transformers' eager attention",
        ),
        pytest.param(
            FalconConfig(vocab_size=320, hidden_size=64, num_attention_heads=4, num_hidden_layers=2),
            Style.IMPLICIT,
            id="attention of its own",
        ),
    ],
)
def test_a_model_is_served_in_the_first_style_that_is_right(
    tmp_path: Path, config: Any, style: Style
) -> None:
    save_config(tmp_path, config)
    engine = TransformersEngine(settings_for(tmp_path, max_model_len=90))
    assert style_of(engine) is style
    prompts = [tuple(range(10, 10 + length)) for length in (3, 17, 30)]
    requests = [engine_request(f"r{len(prompt)}", prompt) for prompt in prompts]
    assert generate(engine, *requests) == [
        as_eager_attention_writes(tmp_path, prompt, 12) for prompt in prompts
    ]


def test_a_slower_style_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_config(tmp_path, plain_config(DogeConfig))
    with caplog.at_level(logging.WARNING):
        TransformersEngine(settings_for(tmp_path))
    assert "DogeForCausalLM is right only where masks are given always, as booleans" in caplog.text


def test_a_model_that_reads_ahead_is_refused_by_name(tmp_path: Path) -> None:
    """In BERT's head without `is_decoder`, each token sees later ones, so no cache can be right."""
    save_config(tmp_path, BertConfig(**{**SIZES, "num_key_value_heads": None}))
    with pytest.raises(
        EngineError, match=r"cannot run this BertLMHeadModel \(bert\): its answers differ"
    ) as caught:
        TransformersEngine(settings_for(tmp_path))
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize("seed", range(5))
def test_a_mixture_of_experts_passes_in_bfloat16(tmp_path: Path, seed: int) -> None:
    """Rounding may send a token to another expert, which is no reason to refuse the model."""
    save_config(tmp_path, MixtralConfig(**MIXTURE), seed)
    engine = TransformersEngine(settings_for(tmp_path, dtype="bfloat16"))
    assert style_of(engine) in (Style.KERNEL, Style.PRODUCTS)


def test_a_model_that_asks_for_its_weights_type_runs_packed(tmp_path: Path) -> None:
    save_config(tmp_path, HunYuanMoEV1Config(**MIXTURE, moe_topk=2))
    engine = TransformersEngine(settings_for(tmp_path, dtype="bfloat16"))
    assert len(generate(engine, engine_request("one", (5, 6, 7)))[0]) == 12


class Wrong:
    """A forward that is right except for one thing."""

    pads, draws, progress = True, False, 0

    def __init__(self, forward: TorchForward, fault: str) -> None:
        self._forward, self._fault = forward, fault

    def run(self, chunks: Sequence[Chunk]) -> Answer:
        answer = self._forward.run(chunks)
        kind = "chunk" if len(chunks) == 1 else "step" if chunks[0].start else "prompt"
        return Answer(answer.best, -answer.logits) if kind == self._fault else answer

    def fits(self, lengths: Sequence[int]) -> bool:
        return self._forward.fits(lengths)

    def make_room(self, lengths: Sequence[int]) -> None: ...

    def release(self, rows: int) -> None: ...

    def move(self, source: int, target: int, tokens: int) -> None: ...

    def clear(self, row: int) -> None: ...


@pytest.mark.parametrize("fault", ["none", "prompt", "step", "chunk"])
def test_the_trial_notices_a_fault_in_each_kind_of_pass(tmp_path: Path, fault: str) -> None:
    save_model(tmp_path, "phi")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    trial = Trial(model)
    forward = TransformersEngine(settings_for(tmp_path))._forward
    assert isinstance(forward, TorchForward)
    is_right = fault == "none"
    assert trial.is_passed_by(forward if is_right else Wrong(forward, fault)) == is_right


LATENT: dict[str, Any] = {
    **MIXTURE,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "n_routed_experts": 4,
    "moe_intermediate_size": 32,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
"""Sizes of DeepSeek's attention. Queries and keys are 24 wide, values 16."""


@pytest.mark.parametrize("config_class", [DeepseekV2Config, DeepseekV3Config])
def test_value_heads_may_be_narrower_than_query_heads(tmp_path: Path, config_class: Any) -> None:
    save_config(tmp_path, config_class(**LATENT))
    engine = TransformersEngine(settings_for(tmp_path))
    assert style_of(engine) is Style.PRODUCTS
    prompts = [tuple(range(10, 10 + length)) for length in (3, 17, 30)]
    expected = [as_eager_attention_writes(tmp_path, prompt, 12) for prompt in prompts]
    assert generate(engine, *(engine_request(f"r{len(prompt)}", prompt) for prompt in prompts)) == expected
