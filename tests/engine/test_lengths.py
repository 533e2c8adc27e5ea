"""Positions and windows: how long a sequence may be, and that no sequence changes another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, Phi3Config, PhimoeConfig

from tasks.errors import SettingsError
from tests.engine.test_equality import Reference
from tests.engine.test_trial import MIXTURE, SIZES, save_config
from tests.engine.tiny import engine_request, generate, settings_for
from worker.engine.transformers import TransformersEngine

SWITCH = 32
"""From here on the models below rotate positions by other factors."""

HALF_HEAD = 8


def longrope(**more: Any) -> dict[str, Any]:
    """A new one for each configuration: Phi-3's writes into it."""
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
    """With MAX_MODEL_LEN beyond it, all sequences have the factors of long ones."""
    save_config(tmp_path, config)
    engine = TransformersEngine(settings_for(tmp_path, max_model_len=90))
    [alone] = generate(engine, SHORT)
    [beside, long] = generate(engine, SHORT, LONG)
    assert beside == alone
    assert long == Reference(tmp_path)(LONG)
    assert generate(engine, SHORT) == [alone]


def test_a_sequence_that_grows_over_the_switch_goes_on_as_it_began(tmp_path: Path) -> None:
    save_config(tmp_path, LLAMA)
    engine = TransformersEngine(settings_for(tmp_path, max_model_len=90))
    request = engine_request("grows", tuple(range(10, 20)), max_tokens=60)
    [whole] = generate(engine, request)
    continued = engine_request("grows", tuple(range(10, 20)), tuple(whole[:40]), max_tokens=60)
    assert generate(engine, continued) == [whole[40:]]


def test_the_switch_does_not_matter_where_the_settings_stay_below(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_config(tmp_path, LLAMA)
    engine = TransformersEngine(settings_for(tmp_path, max_model_len=20))
    assert engine.max_model_len == 20
    assert "factors" not in caplog.text
    with pytest.raises(SettingsError, match=r"MAX_MODEL_LEN=97: .* accepts 96 at most"):
        TransformersEngine(settings_for(tmp_path, max_model_len=97))


def test_dynamic_positions_are_plain_up_to_the_models_length(tmp_path: Path) -> None:
    """transformers stretches them only beyond `max_position_embeddings`, which is never served."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    save_config(tmp_path, LlamaConfig(**SIZES, rope_parameters=rope))
    engine = TransformersEngine(settings_for(tmp_path))
    requests = [SHORT, engine_request("long", tuple(range(10, 80)), max_tokens=26)]
    reference = Reference(tmp_path)
    assert generate(engine, *requests) == [reference(request) for request in requests]
    assert engine.max_model_len == SIZES["max_position_embeddings"]
