"""What ENGINE=transformers refuses to load, and the length and the type that it chooses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BartConfig, FalconConfig, MambaConfig

from tasks.errors import EngineError, SettingsError
from tests.engine.model_cache import cache_of
from tests.engine.tiny import MAX_POSITIONS, engine_request, generate, save_model, settings_for
from worker.engine.forward import Chunk
from worker.engine.loading import kv_budget
from worker.engine.transformers.engine import TransformersEngine

pytest_plugins = ["tests.engine.transformers_fixtures"]


def test_warm_up_names_the_model_that_does_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(settings_for(folder))

    def fail(_: Sequence[Chunk]) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(engine._forward, "run", fail)
    with pytest.raises(EngineError, match=r"the model .* does not run: no kernel"):
        engine.warm_up()
    assert not engine.has_unfinished_requests()


def test_the_settings_may_shorten_the_model_but_not_lengthen_it(folder: Path) -> None:
    assert TransformersEngine(settings_for(folder)).max_model_len == MAX_POSITIONS
    assert TransformersEngine(settings_for(folder, max_model_len=20)).max_model_len == 20
    with pytest.raises(SettingsError, match=f"MAX_MODEL_LEN=97: .* accepts {MAX_POSITIONS} at most"):
        TransformersEngine(settings_for(folder, max_model_len=MAX_POSITIONS + 1))


def test_the_cache_bounds_the_length(
    folder: Path, shape: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A token takes 256 bytes if heads are 8 wide: 2 layers, 2 key/value heads, keys and values, float32."""
    gib = 40 * 256 * (shape.get("head_dim", 8) // 8) / 2**30
    engine = TransformersEngine(settings_for(folder, kv_cache_gib=gib))
    assert engine.max_model_len == 40
    assert "one sequence of 96 tokens takes" in caplog.text
    assert "this worker takes 40 tokens at most" in caplog.text
    assert TransformersEngine(settings_for(folder, kv_cache_gib=gib, max_num_seqs=100)).max_model_len == 40
    assert TransformersEngine(settings_for(folder, kv_cache_gib=gib, max_model_len=40)).max_model_len == 40
    with pytest.raises(SettingsError, match=r"KV_CACHE_GIB=.*: one sequence of 41 tokens takes .*; raise it"):
        TransformersEngine(settings_for(folder, kv_cache_gib=gib, max_model_len=41))
    with pytest.raises(SettingsError, match="raise it, or lower MAX_MODEL_LEN"):
        TransformersEngine(settings_for(folder, kv_cache_gib=gib / 3))


def test_a_cache_larger_than_the_machines_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 24000000 kB\nMemAvailable: 50 kB\n")
    monkeypatch.setattr(kv_budget, "MEMINFO", meminfo)
    with pytest.raises(SettingsError, match=r"KV_CACHE_GIB=4: .* cpu has 4\.77e-05 left; lower it"):
        TransformersEngine(settings_for(folder))


def test_a_cache_larger_than_the_containers_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("999000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 24\n")
    monkeypatch.setattr(kv_budget, "CGROUP", tmp_path)
    with pytest.raises(SettingsError, match=r"KV_CACHE_GIB=4: .* cpu has 9\.54e-07 left; lower it"):
        TransformersEngine(settings_for(folder))
    (tmp_path / "memory.max").write_text("max\n")
    TransformersEngine(settings_for(folder))


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MODEL_ID=.*nowhere: there is no such folder"):
        TransformersEngine(settings_for(tmp_path / "nowhere"))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"^MODEL_ID=.* cannot be loaded: .*$"):
        TransformersEngine(settings_for(tmp_path))


def test_damaged_weights(tmp_path: Path) -> None:
    save_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(EngineError, match=r"^MODEL_ID=.* cannot be loaded: .*$"):
        TransformersEngine(settings_for(tmp_path))


def test_a_gpu_that_does_not_exist(folder: Path) -> None:
    with pytest.raises(SettingsError, match="DEVICE=cuda:99: this machine shows"):
        TransformersEngine(settings_for(folder, device="cuda:99"))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BartConfig(vocab_size=320, d_model=32, encoder_layers=1, decoder_layers=1), "takes no position_ids"),
        (
            FalconConfig(
                vocab_size=320, hidden_size=64, num_attention_heads=4, num_hidden_layers=1, alibi=True
            ),
            "ALiBi",
        ),
        (MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1), "Mamba"),
    ],
    ids=["positions from the mask", "alibi", "no attention"],
)
def test_a_model_that_would_be_wrong_is_refused(tmp_path: Path, config: Any, reason: str) -> None:
    save_model(tmp_path)
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(tmp_path)
    with pytest.raises(EngineError, match=reason):
        TransformersEngine(settings_for(tmp_path, max_model_len=20))


def test_the_dtype_is_float32_on_a_cpu_unless_told_otherwise(folder: Path) -> None:
    assert cache_of(TransformersEngine(settings_for(folder)))[1] == torch.float32
    engine = TransformersEngine(settings_for(folder, dtype="bfloat16"))
    assert cache_of(engine)[1] == torch.bfloat16
    assert len(generate(engine, engine_request("one", (5, 6), temperature=1.0))[0]) == 12
