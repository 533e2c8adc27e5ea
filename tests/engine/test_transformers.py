"""What is particular to ENGINE=transformers: eos, spoilt sequences, loading, encoding."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BartConfig, FalconConfig, MambaConfig

from tasks.errors import EngineError, SettingsError
from tasks.job import FinishReason
from tasks.request import JobRequest
from tests.engine.tiny import (
    EOS_ID,
    MAX_POSITIONS,
    TEXT,
    WIDE,
    Outputs,
    engine_request,
    generate,
    save_model,
    settings_for,
)
from worker.engine.forward import Answer, Chunk
from worker.engine.loading import kv_budget
from worker.engine.native.native_forward import NativeForward
from worker.engine.text.detokenizer import Detokenizer
from worker.engine.torch.torch_forward import TorchForward
from worker.engine.transformers.batch_runner import BESIDE_SECONDS, PREFILL_TOKENS, PREFILL_TOKENS_BESIDE
from worker.engine.transformers.engine import TransformersEngine

POISON_ID = 200
"""The id whose embedding is NaN in the `poisonous` model."""


@pytest.fixture(scope="module", params=[{}, WIDE["llama"]], ids=["torch", "native"])
def shape(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The model's shape. Narrow heads run with torch, wide ones with the native decoder if there is one."""
    changes: dict[str, Any] = request.param
    return changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shape: dict[str, Any]) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), "llama", **shape)


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    return TransformersEngine(settings_for(folder))


@pytest.fixture(scope="module")
def poisonous(tmp_path_factory: pytest.TempPathFactory, shape: dict[str, Any]) -> TransformersEngine:
    folder = save_model(tmp_path_factory.mktemp("poisonous"), "llama", tie_word_embeddings=False, **shape)
    change_weights(folder, "embed_tokens.weight", POISON_ID, torch.nan)
    return TransformersEngine(settings_for(folder))


def change_weights(folder: Path, name: str, rows: int | slice, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    [name] = [full_name for full_name in weights if full_name.endswith(name)]
    weights[name][rows] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def set_eos(folder: Path, eos: int | list[int] | None) -> None:
    path = folder / "generation_config.json"
    config = json.loads(path.read_text())
    config["eos_token_id"] = eos
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("listed", [False, True])
def test_a_sequence_stops_at_the_end_of_sequence(tmp_path: Path, listed: bool) -> None:
    save_model(tmp_path)
    request = engine_request("one", (10, 11, 12), max_tokens=30)
    [free] = generate(TransformersEngine(settings_for(tmp_path)), request)
    end = free[4]
    set_eos(tmp_path, [EOS_ID, end] if listed else end)
    engine = TransformersEngine(settings_for(tmp_path))

    engine.add_request(engine_request("stops", (10, 11, 12), max_tokens=30, ignore_eos=False))
    engine.add_request(engine_request("goes on", (10, 11, 12), max_tokens=30, ignore_eos=True))
    outputs = Outputs(engine).run()
    assert outputs.token_ids["stops"] == free[: free.index(end) + 1]
    assert outputs.finished["stops"] is FinishReason.STOP
    assert outputs.token_ids["goes on"] == free


def test_the_end_of_sequence_is_not_shown(engine: TransformersEngine) -> None:
    prompt = engine.encode(JobRequest(prompt=TEXT))
    detokenizer = Detokenizer(prompt.token_ids, prompt.decode, [])
    word = engine.encode(JobRequest(prompt=" fox")).token_ids
    assert detokenizer.push([*word, EOS_ID]) + detokenizer.finish() == " fox"


def test_positions_have_noise_of_their_own(tmp_path: Path) -> None:
    """All logits are equal, so only noise decides, and it must not repeat itself."""
    save_model(tmp_path, "llama", tie_word_embeddings=False)
    change_weights(tmp_path, "lm_head.weight", slice(None), 0.0)
    engine = TransformersEngine(settings_for(tmp_path))
    [token_ids] = generate(engine, engine_request("one", (9,), temperature=1.0, max_tokens=60))
    assert len(set(token_ids)) > 40


def test_sequences_end_at_the_models_length(engine: TransformersEngine) -> None:
    engine.add_request(engine_request("one", tuple(range(10, 30)), max_tokens=10**6))
    outputs = Outputs(engine).run()
    assert len(outputs.token_ids["one"]) == MAX_POSITIONS - 20
    assert outputs.finished["one"] is FinishReason.LENGTH


def test_a_spoilt_sequence_fails_alone(poisonous: TransformersEngine) -> None:
    healthy = engine_request("healthy", (5, 6, 7), max_tokens=20)
    [expected] = generate(poisonous, healthy)
    poisonous.add_request(engine_request("spoilt", (8, POISON_ID, 9, 10, 11, 12)))
    poisonous.add_request(healthy)
    outputs = Outputs(poisonous).run()
    assert outputs.finished == {"spoilt": FinishReason.ERROR, "healthy": FinishReason.LENGTH}
    assert outputs.errors["spoilt"] == "the model's output is not a number"
    assert outputs.token_ids["healthy"] == expected


def test_a_spoilt_sequence_leaves_a_clean_slot(poisonous: TransformersEngine) -> None:
    """Sequences of different lengths need a mask, and a mask does not hide NaN."""
    requests = [engine_request("short", (5,)), engine_request("long", tuple(range(20, 40)))]
    expected = generate(poisonous, *requests)
    for index in range(poisonous.max_num_seqs):
        poisonous.add_request(engine_request(f"spoilt-{index}", (POISON_ID,) * 30))
    assert set(Outputs(poisonous).run().finished.values()) == {FinishReason.ERROR}
    assert generate(poisonous, *requests) == expected


def test_a_failing_prefill_fails_alone(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = engine._forward.run

    def out_of_memory_with_long_prompts(chunks: Sequence[Chunk]) -> Answer:
        if max(len(chunk.token_ids) for chunk in chunks) > 5:
            raise torch.OutOfMemoryError("no memory")
        return run(chunks)

    requests = [engine_request("first", (5, 6, 7)), engine_request("last", (7, 8, 9))]
    expected = generate(engine, *requests)
    monkeypatch.setattr(engine._forward, "run", out_of_memory_with_long_prompts)
    for request in (requests[0], engine_request("long", tuple(range(10, 16))), requests[1]):
        engine.add_request(request)
    outputs = Outputs(engine).run()
    assert outputs.errors["long"] == "memory did not suffice for this sequence: no memory"
    assert [outputs.token_ids["first"], outputs.token_ids["last"]] == expected


def long_model(
    folder: Path, shape: dict[str, Any], clock: Callable[[], float] = lambda: 0.0
) -> TransformersEngine:
    """Loads a model for long prompts. By default its clock stands still."""
    save_model(folder, "llama", max_position_embeddings=PREFILL_TOKENS + 100, **shape)
    engine = TransformersEngine(settings_for(folder), clock)
    engine.warm_up()
    return engine


def test_a_long_prompt_is_prefilled_in_chunks_while_others_run(
    tmp_path: Path, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Even the smallest chunk takes longer than other sequences should wait.
    machine = SlowMachine(2 * BESIDE_SECONDS / PREFILL_TOKENS_BESIDE)
    engine = long_model(tmp_path, shape, machine)
    machine.slow_down(engine, monkeypatch)
    prompt = tuple(10 + i % 250 for i in range(3 * PREFILL_TOKENS_BESIDE + 1))
    [expected] = generate(engine, engine_request("alone", prompt, max_tokens=5))
    outputs = Outputs(engine)
    engine.add_request(engine_request("running", (5,), max_tokens=30))
    engine.add_request(engine_request("short", (5,), max_tokens=3))
    outputs.step()
    engine.add_request(engine_request("long", prompt, max_tokens=5))
    engine.add_request(engine_request("late", (5,), max_tokens=2))
    assert outputs_of_steps(outputs, 3) == [{"running", "short"}, {"running", "short"}, {"running"}]
    assert outputs_of_steps(outputs, 2) == [{"running", "long"}, {"running", "long", "late"}]
    outputs.run()
    assert outputs.token_ids["long"] == expected


def test_while_others_run_a_fast_machine_takes_longer_chunks(tmp_path: Path, shape: dict[str, Any]) -> None:
    engine = long_model(tmp_path, shape)
    outputs = Outputs(engine)
    engine.add_request(engine_request("running", (5,), max_tokens=30))
    outputs.step()
    engine.add_request(engine_request("long", (6,) * (3 * PREFILL_TOKENS_BESIDE), max_tokens=5))
    assert outputs_of_steps(outputs, 1) == [{"running", "long"}]
    outputs.run()


def test_a_long_prompt_alone_is_prefilled_at_once(tmp_path: Path, shape: dict[str, Any]) -> None:
    engine = long_model(tmp_path, shape)
    engine.add_request(engine_request("fits", (6,) * PREFILL_TOKENS, max_tokens=1))
    assert outputs_of_steps(Outputs(engine), 1) == [{"fits"}]
    engine.add_request(engine_request("does not", (6,) * (PREFILL_TOKENS + 1), max_tokens=1))
    assert outputs_of_steps(Outputs(engine), 2) == [set(), {"does not"}]


class SlowMachine:
    """A clock that each pass advances by the time of its tokens."""

    def __init__(self, seconds_per_token: float) -> None:
        self.now = 0.0
        self.seconds_per_token = seconds_per_token
        self.longest_pass = 0.0

    def __call__(self) -> float:
        return self.now

    def slow_down(self, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        run = engine._forward.run

        def run_slowly(chunks: Sequence[Chunk]) -> Answer:
            seconds = self.seconds_per_token * sum(len(chunk.token_ids) for chunk in chunks)
            self.now += seconds
            self.longest_pass = max(self.longest_pass, seconds)
            return run(chunks)

        monkeypatch.setattr(engine._forward, "run", run_slowly)


def test_chunks_follow_the_speed_of_the_machine(
    tmp_path: Path, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine becomes slower and faster again. The tokens stay the same."""
    machine = SlowMachine(0.0)
    engine = long_model(tmp_path, shape, machine)
    prompt = tuple(10 + i % 250 for i in range(900))
    requests = [engine_request("long", prompt), engine_request("sampled", prompt[:300], temperature=1.0)]
    expected = generate(engine, *requests)
    machine.slow_down(engine, monkeypatch)
    # The first pass measures the speed. Each later one should take half a second, and at most twice as long.
    for seconds_per_token, longest in [(0.004, 5.0), (0.004, 1.0), (0.02, 3.0), (0.02, 1.0), (0.0, 0.0)]:
        machine.seconds_per_token, machine.longest_pass = seconds_per_token, 0.0
        assert generate(engine, *requests) == expected
        assert machine.longest_pass <= longest
    for _ in range(3):
        generate(engine, requests[0])
    outputs = Outputs(engine)
    engine.add_request(requests[0])
    assert outputs_of_steps(outputs, 1) == [{"long"}], "the prompt comes in one chunk again"
    outputs.run()


def test_the_warm_up_measures_a_slow_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first prompt must not have to measure it."""
    machine = SlowMachine(0.01)
    engine = TransformersEngine(settings_for(folder), machine)
    machine.slow_down(engine, monkeypatch)
    engine.warm_up()
    machine.longest_pass = 0.0
    for index in range(4):
        engine.add_request(engine_request(str(index), (5, 6) * 40))
    Outputs(engine).run()
    assert machine.longest_pass <= 0.5


def test_a_warm_up_without_memory_for_long_prompts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine serves with shorter chunks."""
    engine = TransformersEngine(settings_for(folder), lambda: 0.0)
    run = engine._forward.run

    def out_of_memory_with_long_prompts(chunks: Sequence[Chunk]) -> Answer:
        if max(len(chunk.token_ids) for chunk in chunks) > 40:
            raise torch.OutOfMemoryError("no memory")
        return run(chunks)

    monkeypatch.setattr(engine._forward, "run", out_of_memory_with_long_prompts)
    engine.warm_up()
    assert "prompts are prefilled 32 tokens at a time: " in caplog.text
    assert "memory did not suffice for this sequence: no memory" in caplog.text
    assert len(generate(engine, engine_request("long", (5, 6) * 40))[0]) == 12


def test_each_layer_reports_progress(engine: TransformersEngine) -> None:
    """Otherwise a long pass would be taken for one that hangs."""
    engine.add_request(engine_request("one", (5, 6, 7), max_tokens=3))
    seen = [engine.progress()]
    while engine.has_unfinished_requests():
        engine.step()
        seen.append(engine.progress())
    layers = 2
    assert [after - before for before, after in pairwise(seen)] == [layers] * 3


def test_an_aborted_chunk_leaves_nothing_behind(tmp_path: Path, shape: dict[str, Any]) -> None:
    engine = long_model(tmp_path, shape)
    outputs = Outputs(engine)
    engine.add_request(engine_request("running", (5,), max_tokens=10))
    outputs.step()
    engine.add_request(engine_request("long", (6,) * (PREFILL_TOKENS + 1)))
    outputs.step()
    engine.abort_request("long")
    outputs.run()
    assert outputs.finished == {"running": FinishReason.LENGTH}
    assert not engine.has_unfinished_requests()


def outputs_of_steps(outputs: Outputs, steps: int) -> list[set[str]]:
    """Runs steps, and returns the sequences that got a token in each."""
    return [{output.request_id for output in outputs.step()} for _ in range(steps)]


def cache_of(engine: TransformersEngine) -> tuple[list[int], torch.dtype]:
    """Returns how many tokens each row has room for, and the type of its numbers."""
    forward = engine._forward
    if isinstance(forward, NativeForward):
        return [rooms for row in forward._states.rows if (rooms := row.shape[3])], forward._states.dtype
    assert isinstance(forward, TorchForward)
    keys, _ = forward._states.layers[0]
    return [keys.shape[2]] * keys.shape[0], keys.dtype


def test_memory_grows_only_when_it_is_needed(folder: Path) -> None:
    engine = TransformersEngine(settings_for(folder, max_num_seqs=100))
    generate(engine, engine_request("one", (5, 6), max_tokens=3))
    [room], _ = cache_of(engine)
    assert room < MAX_POSITIONS
    generate(engine, *(engine_request(f"r{index}", (5, 6), max_tokens=10**6) for index in range(7)))
    rooms, _ = cache_of(engine)
    assert 7 <= len(rooms) < 16
    assert set(rooms) == {MAX_POSITIONS}


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


def test_encoding_and_decoding_at_the_same_time(engine: TransformersEngine) -> None:
    prompt = engine.encode(JobRequest(prompt=TEXT))
    done = threading.Event()
    failures: list[Exception] = []

    def encode_all_the_time() -> None:
        try:
            while not done.is_set():
                # Truncation would change the tokenizer's state.
                engine._prompts._tokenizer.backend_tokenizer.enable_truncation(10**6)
                engine.encode(JobRequest(prompt=TEXT * 20))
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=encode_all_the_time)
    thread.start()
    texts = {prompt.decode(prompt.token_ids) for _ in range(2000)}
    done.set()
    thread.join(timeout=30)
    assert failures == []
    assert texts == {TEXT}
