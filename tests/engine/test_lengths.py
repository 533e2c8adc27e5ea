"""Positions and windows limit how long a sequence may be, and no sequence changes another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    DogeConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhimoeConfig,
    Qwen2Config,
)

from tasks.errors import SettingsError
from tests.engine.test_equality import Reference
from tests.engine.test_trial import MIXTURE, SIZES, as_eager_attention_writes, save_config, style_of
from tests.engine.tiny import Outputs, engine_request, generate, settings_for
from worker.engine.native.native_forward import NativeForward
from worker.engine.torch.masks import Style
from worker.engine.transformers.batch_runner import PREFILL_TOKENS_BESIDE
from worker.engine.transformers.engine import TransformersEngine

SWITCH = 32
"""The position from which on these models rotate by other factors."""

HALF_HEAD = 8


def longrope(**more: Any) -> dict[str, Any]:
    """Returns new rope parameters for each configuration, because Phi-3's configuration changes them."""
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * HALF_HEAD,
        "long_factor": [2.0 + index for index in range(HALF_HEAD)],
        "original_max_position_embeddings": SWITCH,
        "factor": 3.0,
        **more,
    }


LLAMA = LlamaConfig(**SIZES, rope_parameters=longrope())
PHI3 = Phi3Config(
    **SIZES, rope_parameters=longrope(), original_max_position_embeddings=SWITCH, sliding_window=None
)
PHIMOE = PhimoeConfig(
    **MIXTURE, rope_parameters=longrope(short_mscale=1.0, long_mscale=1.2), sliding_window=None
)
SWITCHING = [pytest.param(config, id=config.model_type) for config in (LLAMA, PHI3, PHIMOE)]
SHORT = engine_request("short", (5, 6, 7), max_tokens=20)
LONG = engine_request("long", tuple(range(10, 10 + SWITCH + 8)), max_tokens=20)


@pytest.mark.parametrize("config", SWITCHING)
def test_a_model_that_switches_factors_is_served_up_to_the_switch(
    tmp_path: Path, config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    save_config(tmp_path, config)
    with caplog.at_level(logging.WARNING):
        engine = TransformersEngine(settings_for(tmp_path))
    assert engine.max_model_len == SWITCH
    assert f"this worker takes {SWITCH} tokens at most" in caplog.text
    assert "MAX_MODEL_LEN" in caplog.text
    requests = [SHORT, engine_request("middle", tuple(range(40, 60)), max_tokens=SWITCH - 20)]
    reference = Reference(tmp_path)
    assert generate(engine, *requests) == [reference(request) for request in requests]


@pytest.mark.parametrize("config", SWITCHING)
def test_beyond_the_switch_a_long_sequence_changes_no_short_one(tmp_path: Path, config: Any) -> None:
    """With MAX_MODEL_LEN beyond the switch, all sequences use the factors of long ones."""
    save_config(tmp_path, config)
    engine = TransformersEngine(settings_for(tmp_path, max_model_len=90))
    [alone] = generate(engine, SHORT)
    [beside, long] = generate(engine, SHORT, LONG)
    assert beside == alone
    assert long == Reference(tmp_path)(LONG)
    assert generate(engine, SHORT) == [alone]


def test_a_sequence_that_grows_over_the_switch_keeps_its_factors(tmp_path: Path) -> None:
    save_config(tmp_path, LLAMA)
    engine = TransformersEngine(settings_for(tmp_path, max_model_len=90))
    request = engine_request("grows", tuple(range(10, 20)), max_tokens=60)
    [whole] = generate(engine, request)
    continued = engine_request("grows", tuple(range(10, 20)), tuple(whole[:40]), max_tokens=60)
    assert generate(engine, continued) == [whole[40:]]


def test_the_switch_does_not_matter_if_the_settings_stay_below(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_config(tmp_path, LLAMA)
    engine = TransformersEngine(settings_for(tmp_path, max_model_len=20))
    assert engine.max_model_len == 20
    assert "factors" not in caplog.text
    with pytest.raises(SettingsError, match=r"MAX_MODEL_LEN=97: .* accepts 96 at most"):
        TransformersEngine(settings_for(tmp_path, max_model_len=97))


def test_dynamic_positions_are_plain_up_to_the_models_length(tmp_path: Path) -> None:
    """transformers stretches them only beyond `max_position_embeddings`, which is our longest sequence."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    save_config(tmp_path, LlamaConfig(**SIZES, rope_parameters=rope))
    engine = TransformersEngine(settings_for(tmp_path))
    requests = [SHORT, engine_request("long", tuple(range(10, 80)), max_tokens=26)]
    reference = Reference(tmp_path)
    assert generate(engine, *requests) == [reference(request) for request in requests]
    assert engine.max_model_len == SIZES["max_position_embeddings"]


WINDOW = 20


def alternating(config_class: Any, sizes: dict[str, Any] = SIZES, **changes: Any) -> Any:
    """Returns a configuration of two layers: the first one has a window, the second one has not."""
    kinds = ["sliding_attention", "full_attention"]
    return config_class(**{**sizes, "sliding_window": WINDOW, "layer_types": kinds, **changes})


SLIDING = [
    pytest.param(alternating(Gemma3TextConfig), Style.KERNEL, id="gemma3"),
    pytest.param(
        alternating(Gemma3TextConfig, head_dim=8, query_pre_attn_scalar=8), Style.PRODUCTS, id="gemma3-narrow"
    ),
    pytest.param(alternating(Gemma2Config, attn_logit_softcapping=2.0), Style.ADDED, id="gemma2"),
    pytest.param(alternating(GptOssConfig, MIXTURE), Style.ADDED, id="gpt-oss"),
    pytest.param(MistralConfig(**SIZES, sliding_window=WINDOW), Style.KERNEL, id="mistral"),
    pytest.param(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
        Style.KERNEL,
        id="qwen2",
    ),
    pytest.param(DogeConfig(**SIZES, sliding_window=WINDOW), Style.BOOLEAN, id="doge"),
]


@pytest.mark.parametrize(("config", "style"), SLIDING)
def test_sequences_go_beyond_a_window(tmp_path: Path, config: Any, style: Style) -> None:
    """Prompts that are shorter and longer than it run together, up to the model's length."""
    save_config(tmp_path, config)
    engine = TransformersEngine(settings_for(tmp_path))
    assert engine.max_model_len == SIZES["max_position_embeddings"]
    assert style_of(engine) is style
    lengths = {4: 25, 18: 6, 30: 15, 70: 26}
    prompts = {tuple(range(10, 10 + length)): tokens for length, tokens in lengths.items()}
    expected = [as_eager_attention_writes(tmp_path, prompt, tokens) for prompt, tokens in prompts.items()]
    requests = [engine_request(f"{len(p)}", p, max_tokens=tokens) for p, tokens in prompts.items()]
    assert generate(engine, *requests) == expected
    assert [generate(engine, request)[0] for request in requests] == expected


def test_a_long_prompt_in_chunks_goes_beyond_a_window(tmp_path: Path) -> None:
    save_config(tmp_path, alternating(Gemma3TextConfig, max_position_embeddings=400))
    engine = TransformersEngine(settings_for(tmp_path))
    prompt = tuple(10 + index % 200 for index in range(PREFILL_TOKENS_BESIDE + 100))
    expected = as_eager_attention_writes(tmp_path, prompt, 5)
    outputs = Outputs(engine)
    engine.add_request(engine_request("running", (5, 6), max_tokens=12))
    outputs.step()
    engine.add_request(engine_request("long", prompt, max_tokens=5))
    assert outputs.run().token_ids["long"] == expected


def test_below_its_window_a_model_runs_natively(tmp_path: Path) -> None:
    save_config(tmp_path, MistralConfig(**SIZES, sliding_window=WINDOW))
    engine = TransformersEngine(settings_for(tmp_path, max_model_len=WINDOW))
    assert isinstance(engine._forward, NativeForward)


def test_why_a_model_with_windows_is_slower_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_config(tmp_path, MistralConfig(**SIZES, sliding_window=WINDOW))
    with caplog.at_level(logging.WARNING):
        TransformersEngine(settings_for(tmp_path))
    assert f"with MAX_MODEL_LEN={WINDOW} it would run natively" in caplog.text


CHUNKED = Llama4TextConfig(
    **MIXTURE, intermediate_size_mlp=64, attention_chunk_size=WINDOW, no_rope_layers=[1, 0]
)


def test_chunked_attention_bounds_the_length(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is not a window. Up to the end of the first chunk, all attention is full."""
    save_config(tmp_path, CHUNKED)
    with caplog.at_level(logging.WARNING):
        engine = TransformersEngine(settings_for(tmp_path))
    assert engine.max_model_len == WINDOW
    assert f"this worker takes {WINDOW} tokens at most" in caplog.text
    assert "chunked_attention" in caplog.text
    request = engine_request("one", (5, 6, 7), max_tokens=WINDOW - 3)
    assert generate(engine, request) == [as_eager_attention_writes(tmp_path, (5, 6, 7), WINDOW - 3)]
    with pytest.raises(SettingsError, match=rf"MAX_MODEL_LEN=21: .* accepts {WINDOW} at most"):
        TransformersEngine(settings_for(tmp_path, max_model_len=WINDOW + 1))
