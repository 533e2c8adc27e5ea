"""How ENGINE=transformers prefills long prompts: in chunks that follow the machine's speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.job import FinishReason
from tests.engine.tiny import Outputs, engine_request, generate, save_model, settings_for
from worker.engine.forward import Answer, Chunk
from worker.engine.transformers.batch_runner import BESIDE_SECONDS, PREFILL_TOKENS, PREFILL_TOKENS_BESIDE
from worker.engine.transformers.engine import TransformersEngine

pytest_plugins = ["tests.engine.transformers_fixtures"]


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
