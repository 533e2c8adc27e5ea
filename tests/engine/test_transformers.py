"""Sequences of ENGINE=transformers: their ends, spoilt ones, progress and memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.job import FinishReason
from tasks.request import JobRequest
from tests.engine.model_cache import cache_of
from tests.engine.tiny import (
    EOS_ID,
    MAX_POSITIONS,
    TEXT,
    Outputs,
    engine_request,
    generate,
    save_model,
    settings_for,
)
from worker.engine.forward import Answer, Chunk
from worker.engine.text.detokenizer import Detokenizer
from worker.engine.transformers.engine import TransformersEngine

pytest_plugins = ["tests.engine.transformers_fixtures"]

POISON_ID = 200
"""The id whose embedding is NaN in the `poisonous` model."""


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


def test_each_layer_reports_progress(engine: TransformersEngine) -> None:
    """Otherwise a long pass would be taken for one that hangs."""
    engine.add_request(engine_request("one", (5, 6, 7), max_tokens=3))
    seen = [engine.progress()]
    while engine.has_unfinished_requests():
        engine.step()
        seen.append(engine.progress())
    layers = 2
    assert [after - before for before, after in pairwise(seen)] == [layers] * 3


def test_memory_grows_only_when_it_is_needed(folder: Path) -> None:
    engine = TransformersEngine(settings_for(folder, max_num_seqs=100))
    generate(engine, engine_request("one", (5, 6), max_tokens=3))
    [room], _ = cache_of(engine)
    assert room < MAX_POSITIONS
    generate(engine, *(engine_request(f"r{index}", (5, 6), max_tokens=10**6) for index in range(7)))
    rooms, _ = cache_of(engine)
    assert 7 <= len(rooms) < 16
    assert set(rooms) == {MAX_POSITIONS}


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
