"""Sequences share a budget of memory. All get the tokens that they get alone, and one may use all of it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.job import FinishReason
from tests.engine.tiny import WIDE, Outputs, engine_request, generate, save_model, settings_for
from worker.engine.base import EngineRequest
from worker.engine.forward import Answer, Chunk
from worker.engine.loading.kv_budget import GIB
from worker.engine.native.isa import supported
from worker.engine.native.native_forward import NativeForward
from worker.engine.sampling import Row
from worker.engine.transformers.engine import TransformersEngine

ROOT = Path(__file__).parents[2]
BUDGET, SLOTS, LONGEST = 400, 6, 1024

BYTES_PER_TOKEN = 2 * 2 * 2 * 32 * 4
"""This model's layers * keys and values * heads * width * bytes of float32."""

SAMPLED: dict[str, Any] = {"temperature": 1.0, "repetition_penalty": 1.2}


@pytest.fixture(scope="module", params=["auto", "none"])
def isa(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return save_model(folder, "llama", max_position_embeddings=LONGEST, **WIDE["llama"])


def load(folder: Path, isa: str, **changes: Any) -> TransformersEngine:
    values = {"max_num_seqs": SLOTS, "kv_cache_gib": BUDGET * BYTES_PER_TOKEN / GIB, "native_isa": isa}
    engine = TransformersEngine(settings_for(folder, **{**values, **changes}))
    assert isinstance(engine._forward, NativeForward) == (isa != "none" and bool(supported()))
    return engine


@pytest.fixture(scope="module")
def loaded(folder: Path, isa: str) -> TransformersEngine:
    return load(folder, isa)


@pytest.fixture
def engine(loaded: TransformersEngine) -> TransformersEngine:
    """An idle engine. Every test leaves it idle."""
    assert not loaded.has_unfinished_requests()
    loaded._scheduler.preemptions = 0
    return loaded


def requests_of_all_lengths(count: int, **sampling: Any) -> list[EngineRequest]:
    dice = random.Random(count)
    return [
        engine_request(
            f"r{index}",
            tuple(dice.randrange(2, 300) for _ in range(dice.choice([1, 5, 20, 60]))),
            max_tokens=dice.randint(40, 300),
            seed=index,
            **sampling,
        )
        for index in range(count)
    ]


def feed(engine: TransformersEngine, requests: Sequence[EngineRequest]) -> Outputs:
    """Runs requests, as many at a time as there are slots."""
    coming, outputs = list(reversed(requests)), Outputs(engine)
    while coming or engine.has_unfinished_requests():
        while coming and len(engine._scheduler.sequences()) < SLOTS:
            engine.add_request(coming.pop())
        outputs.step()
        assert memory_of(engine) <= BUDGET
    return outputs


def memory_of(engine: TransformersEngine) -> int:
    """Returns how many tokens all rows have room for, free rows included."""
    forward: Any = engine._forward
    if isinstance(forward, NativeForward):
        return sum(row.shape[3] for row in forward._states.rows)
    keys: Tensor = forward._states.layers[0][0]
    return keys.shape[0] * keys.shape[2]


@pytest.mark.parametrize("sampling", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_preempted_sequences_end_with_the_tokens_that_they_have_alone(
    engine: TransformersEngine, sampling: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    requests = requests_of_all_lengths(16, **sampling)
    alone = [generate(engine, request)[0] for request in requests]
    assert engine._scheduler.preemptions == 0
    engine._runner._log_preemptions_at = 0.0
    outputs = feed(engine, requests)
    assert engine._scheduler.preemptions > 0
    assert [outputs.token_ids[request.request_id] for request in requests] == alone
    assert caplog.text.count("waits for others to end") == 1


def test_one_sequence_may_use_the_whole_budget(engine: TransformersEngine) -> None:
    assert engine.max_model_len == BUDGET
    request = engine_request("long", tuple(range(10, 30)), max_tokens=10**6)
    [alone] = generate(engine, request)
    assert len(alone) == BUDGET - 20
    short = [engine_request(f"s{index}", (5, index + 6), max_tokens=300) for index in range(SLOTS - 1)]
    expected = [generate(engine, each)[0] for each in short]
    assert generate(engine, request, *short) == [alone, *expected]
    assert engine._scheduler.preemptions > 0


def test_the_oldest_gains_a_token_in_every_step(engine: TransformersEngine) -> None:
    outputs = Outputs(engine)
    for name in ("oldest", "middle", "youngest"):
        engine.add_request(engine_request(name, (5, 6), max_tokens=220))
    seen = []
    while "oldest" not in outputs.finished:
        seen.append({output.request_id for output in outputs.step()})
    assert len(seen) == 220
    assert seen[0] == {"oldest", "middle", "youngest"}
    assert seen[-1] == {"oldest"}
    assert all("middle" in names for names in seen if "youngest" in names)
    outputs.run()
    assert [*outputs.finished] == ["oldest", "middle", "youngest"]


def test_a_continued_sequence_continues_after_a_preemption(engine: TransformersEngine) -> None:
    """Its penalties count the tokens of an earlier worker, and those before it was preempted here."""
    options = {**SAMPLED, "presence_penalty": 0.3, "frequency_penalty": 0.2, "max_tokens": 250}
    first = engine_request("first", (9,), max_tokens=300)
    [whole] = generate(engine, engine_request("whole", (5, 6), **options))
    rest = engine_request("rest", (5, 6), output_ids=tuple(whole[:20]), logprobs=1, **options)
    for request in (first, rest):
        engine.add_request(request)
    outputs = Outputs(engine).run()
    assert engine._scheduler.preemptions > 0
    assert outputs.token_ids["rest"] == whole[20:]
    assert len(outputs.logprobs["rest"]) == 230


def test_aborts_leave_the_whole_budget(engine: TransformersEngine) -> None:
    dice, outputs = random.Random(3), Outputs(engine)
    for round_number in range(60):
        for index, request in enumerate(requests_of_all_lengths(SLOTS)):
            if len(engine._scheduler.sequences()) < SLOTS and dice.random() < 0.7:
                new = engine_request(f"{round_number}-{index}", request.prompt_ids, max_tokens=300)
                engine.add_request(new)
        for _ in range(dice.randint(1, 60)):
            outputs.step()
        for sequence in engine._scheduler.sequences():
            if dice.random() < 0.2:
                engine.abort_request(sequence.request_id)
    assert engine._scheduler.preemptions > 0
    for sequence in engine._scheduler.sequences():
        engine.abort_request(sequence.request_id)
    assert not engine.has_unfinished_requests()
    [token_ids] = generate(engine, engine_request("all", (5,), max_tokens=10**6))
    assert len(token_ids) == BUDGET - 1
    assert memory_of(engine) <= BUDGET


class OutOfMemoryBeyond:
    """A forward on a device that has memory for `tokens` tokens in one pass, or in the cache."""

    def __init__(self, engine: TransformersEngine, tokens: int) -> None:
        self.tokens = tokens
        self._run, self._make_room = engine._forward.run, engine._forward.make_room

    def run(self, chunks: Sequence[Chunk]) -> Answer:
        self._take(sum(chunk.end for chunk in chunks))
        return self._run(chunks)

    def make_room(self, lengths: Sequence[int]) -> None:
        self._take(sum(lengths))
        self._make_room(lengths)

    def _take(self, tokens: int) -> None:
        if tokens > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore lines.")


def test_a_pass_without_memory_runs_again_without_the_youngest(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [engine_request(f"r{index}", (5, 6, 7 + index), max_tokens=40) for index in range(4)]
    alone = [generate(engine, request)[0] for request in requests]
    monkeypatch.setattr(engine._forward, "run", OutOfMemoryBeyond(engine, 100).run)
    for request in requests:
        engine.add_request(request)
    outputs = Outputs(engine)
    while "r0" not in outputs.finished:
        assert "r0" in {output.request_id for output in outputs.step()}
    assert engine._scheduler.preemptions > 0
    outputs.run()
    assert [outputs.token_ids[request.request_id] for request in requests] == alone


@pytest.mark.parametrize("where", ["run", "make_room"])
def test_a_sequence_that_has_no_memory_even_alone_fails_alone(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Memory ends when its prompt is added or its cache grows. torch's error is not a MemoryError."""
    short = [engine_request(f"r{index}", (5, 6, 7 + index), max_tokens=30) for index in range(3)]
    alone = [generate(engine, request)[0] for request in short]
    monkeypatch.setattr(engine._forward, where, getattr(OutOfMemoryBeyond(engine, 100), where))
    grows = engine_request("grows", (5,) * 60, max_tokens=100)
    joins = engine_request("joins", (5,) * 130, max_tokens=3)
    for request in (short[0], grows, short[1], joins, short[2]):
        engine.add_request(request)
    outputs = Outputs(engine).run()
    reason = "memory did not suffice for this sequence: CUDA out of memory. Tried to allocate 2 GiB."
    assert outputs.errors == {
        **dict.fromkeys(("grows", "joins"), reason),
        **dict.fromkeys(("r0", "r1", "r2")),
    }
    assert [outputs.token_ids[request.request_id] for request in short] == alone


def test_a_prompt_without_memory_waits_for_a_sequence_to_end(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device has memory for 100 tokens, although the budget is larger."""
    requests = [engine_request("first", (5,) * 60, max_tokens=30), engine_request("second", (6,) * 50)]
    alone = [generate(engine, request)[0] for request in requests]
    monkeypatch.setattr(engine._forward, "make_room", OutOfMemoryBeyond(engine, 100).make_room)
    assert generate(engine, *requests) == alone


def test_sampling_without_memory_for_all_rows_draws_some_at_a_time(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [
        engine_request(f"r{index}", (5, 6, 7 + index), top_k=9, temperature=1.0, seed=index)
        for index in range(5)
    ]
    alone = [generate(engine, request)[0] for request in requests]
    sample = engine._sample

    def sample_two(logits: Tensor, rows: Sequence[Row]) -> list[int]:
        if len(rows) > 2 or any(row.sampling.temperature == 0.5 for row in rows):
            raise torch.OutOfMemoryError("no memory")
        return sample(logits, rows)

    monkeypatch.setattr(engine, "_sample", sample_two)
    for request in requests:
        engine.add_request(request)
    engine.add_request(engine_request("never", (5,), top_k=9, temperature=0.5))
    outputs = Outputs(engine).run()
    assert [outputs.token_ids[request.request_id] for request in requests] == alone
    assert outputs.finished["never"] is FinishReason.ERROR
    assert str(outputs.errors["never"]).startswith("memory did not suffice")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space of a process")
def test_memory_that_the_system_refuses_ends_one_sequence_only(tmp_path: Path, isa: str) -> None:
    """Real allocations fail in the process of `short_of_memory`, which has a limited address space."""
    wide: dict[str, Any] = {
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_size": 128,
    }
    save_model(tmp_path, "llama", max_position_embeddings=4096, **wide)
    # By torch, a preempted sequence takes more memory than before: all its tokens are prefilled in one pass.
    mib = "80" if isa == "none" else "44"
    command = [sys.executable, "-m", "tests.engine.short_of_memory", str(tmp_path), isa, mib]
    # Each thread needs memory of its own.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    failed = {request_id: error for request_id, error in report["errors"].items() if error is not None}
    assert [*failed] == ["too long"]
    assert failed["too long"].startswith("memory did not suffice for this sequence: ")
    assert {name: report["together"][name] for name in report["alone"]} == report["alone"]
    assert report["again"] == report["alone"]["grows"], "the next sequence has memory again"
    assert report["preemptions"] > 0
