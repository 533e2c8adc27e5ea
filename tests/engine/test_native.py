"""The native decoder computes what transformers' models do, and a sequence does not depend on its batch."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.engine.conftest import ISAS
from tests.engine.native_engines import engine_on, load
from tests.engine.tiny import (
    CONFIGS,
    MAX_POSITIONS,
    MORE_CONFIGS,
    WIDE,
    Outputs,
    engine_request,
    generate,
    save_model,
)
from worker.engine.base import SamplingParams
from worker.engine.forward import Answer, Chunk, Draw
from worker.engine.native.decoder import Decoder
from worker.engine.native.library import NativeLibrary
from worker.engine.native.native_forward import NativeForward
from worker.engine.native.panels import in_panels
from worker.engine.native.sampler import NativeSampler
from worker.engine.native.weights import READERS
from worker.engine.sampling import NO_TOKEN, Row, best_tokens, noise_key, sample
from worker.engine.transformers.engine import TransformersEngine

CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""The allowed difference, as a share of the range of the logits."""

pytestmark = pytest.mark.usefixtures("_restored_threads")


@torch.inference_mode()
def expected_logits(folder: Path, dtype: torch.dtype, token_ids: list[int]) -> Tensor:
    """Returns the logits after each token, which transformers computes in float32 from the same weights.

    The shape is [tokens, vocab].
    """
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    logits: Tensor = model.float().eval()(torch.tensor([token_ids])).logits[0]
    return logits


@torch.inference_mode()
def run(engine: TransformersEngine, *chunks: Chunk) -> Answer:
    return engine._forward.run([replace(chunk, wants_logits=True) for chunk in chunks])


def sequence(length: int, seed: int = 0) -> list[int]:
    dice = random.Random(seed)
    return [dice.randrange(2, 300) for _ in range(length)]


@pytest.mark.parametrize("kind", sorted(READERS))
def test_logits_equal_those_of_transformers(
    tmp_path: Path, kind: str, dtype: torch.dtype, library: NativeLibrary
) -> None:
    """They are compared at every position of a prompt in uneven chunks, and of the steps after it."""
    assert kind in {**CONFIGS, **MORE_CONFIGS}
    engine = load(tmp_path, kind, dtype, library)
    token_ids = sequence(45)
    expected = expected_logits(tmp_path, dtype, token_ids)
    close = CLOSE[dtype] * (expected.max() - expected.min()).item()
    start = 0
    for length in (1, 17, 20, 1, 1, 5):
        answer = run(engine, Chunk(0, start, token_ids[start : start + length]))
        start += length
        torch.testing.assert_close(answer.logits[0], expected[start - 1], rtol=0, atol=close)
        assert answer.best == [answer.logits[0].argmax().item()]


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (Chunk(0, 0, [100_000]), "vocabulary"),
        (Chunk(0, 0, [-1]), "vocabulary"),
        (Chunk(0, MAX_POSITIONS, [1]), "position"),
    ],
)
def test_what_lies_outside_of_a_table_is_refused(
    tmp_path: Path, dtype: torch.dtype, library: NativeLibrary, chunk: Chunk, message: str
) -> None:
    """The C code would read memory that belongs to something else."""
    engine = load(tmp_path, "opt", dtype, library)
    with pytest.raises(IndexError, match=message):
        run(engine, chunk)


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("opt", {"activation_function": "gelu"}),
    ("opt", {"enable_bias": False}),
    ("gpt2", {"activation_function": "gelu_pytorch_tanh", "n_inner": 80}),
    ("llama", {"hidden_act": "gelu", "attention_bias": True, "mlp_bias": True}),
    ("llama", {"num_key_value_heads": 1, "intermediate_size": 208, "vocab_size": 333}),
    ("llama", {"num_key_value_heads": 4, "head_dim": 48, "hidden_size": 144}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    ("qwen3", {"head_dim": 256}),
]


@pytest.mark.parametrize(("kind", "changes"), OPTIONS, ids=str)
def test_with_the_models_options(
    tmp_path: Path, kind: str, changes: dict[str, Any], dtype: torch.dtype, library: NativeLibrary
) -> None:
    engine = load(tmp_path, kind, dtype, library, **changes)
    token_ids = sequence(30)
    expected = expected_logits(tmp_path, dtype, token_ids)
    close = CLOSE[dtype] * (expected.max() - expected.min()).item()
    torch.testing.assert_close(
        run(engine, Chunk(3, 0, token_ids)).logits[0], expected[-1], rtol=0, atol=close
    )


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_a_sequence_does_not_depend_on_its_batch(
    tmp_path: Path, kind: str, dtype: torch.dtype, library: NativeLibrary
) -> None:
    """It is bit-identical: alone or in a batch, as a prompt or token by token, with any number of threads."""
    engine = load(tmp_path, kind, dtype, library)
    token_ids = sequence(70)
    torch.set_num_threads(1)
    alone = run(engine, Chunk(0, 0, token_ids)).logits[0]

    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        crowd = [Chunk(row, 0, sequence(3 + 9 * row, seed=row)) for row in range(8)]
        crowd[5] = Chunk(5, 0, token_ids)
        assert torch.equal(run(engine, *crowd).logits[5], alone)

        run(engine, *(Chunk(row, 0, sequence(40, seed=row)) for row in range(6)), Chunk(6, 0, token_ids[:40]))
        for position in range(40, 70):
            steps = [Chunk(row, position, [9]) for row in range(6)]
            answer = run(engine, *steps, Chunk(6, position, [token_ids[position]]))
        assert torch.equal(answer.logits[6], alone)


@pytest.mark.parametrize("kind", sorted(READERS))
def test_all_instruction_sets_compute_the_same(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    """They are bit-identical, so a worker with another processor continues a sequence in the same way."""
    save_model(tmp_path, kind, **WIDE[kind])
    prompts = [Chunk(row, 0, sequence(3 + 9 * row, seed=row)) for row in range(7)]
    steps = [Chunk(row, 3 + 9 * row, [9 + row]) for row in range(7)]
    answers = {}
    for isa in ISAS:
        engine = engine_on(tmp_path, dtype, isa)
        answers[isa] = torch.cat([run(engine, *prompts).logits, run(engine, *steps).logits])
    for isa in ISAS[1:]:
        assert torch.equal(answers[isa], answers[ISAS[0]]), isa


@pytest.mark.parametrize("cut", [1, 7, 19])
def test_a_continued_sequence_is_the_same(
    tmp_path: Path, dtype: torch.dtype, cut: int, library: NativeLibrary
) -> None:
    """Another worker continues it as the first would have, even with sampling."""
    engine = load(tmp_path, "llama", dtype, library)
    options: dict[str, Any] = {"temperature": 1.0, "seed": 5, "max_tokens": 20}
    [whole] = generate(engine, engine_request("whole", (5, 6, 7), **options))
    outputs = Outputs(engine)
    engine.add_request(engine_request("continued", (5, 6, 7), tuple(whole[:cut]), **options))
    for index in range(4):
        engine.add_request(engine_request(f"beside-{index}", tuple(range(10, 40 + index)), max_tokens=30))
    assert outputs.run().token_ids["continued"] == whole[cut:]


@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 2.0])
def test_a_token_is_drawn_as_from_its_logits(
    tmp_path: Path, dtype: torch.dtype, library: NativeLibrary, temperature: float
) -> None:
    """The forward pass draws it, with or without shortlists, or the sampler in C does."""
    engine = load(tmp_path, "llama", dtype, library)
    draws = [Draw(1 / temperature, noise_key(seed, 0, 5)) for seed in range(8)]
    chunks = [Chunk(row, 0, sequence(3 + row, seed=row), draw=draw) for row, draw in enumerate(draws)]
    with torch.inference_mode():
        answer = engine._forward.run([replace(chunk, wants_logits=True) for chunk in chunks])
        assert engine._forward.run(chunks).best == answer.best
    rows = [Row(SamplingParams(temperature=temperature), draw.key) for draw in draws]
    assert NativeSampler(library)(answer.logits, rows) == answer.best
    assert sample(answer.logits, rows) == answer.best
    if temperature >= 0.7:
        assert answer.best != answer.logits.argmax(dim=-1).tolist()


def test_ties_go_to_the_lowest_id(tmp_path: Path, dtype: torch.dtype, library: NativeLibrary) -> None:
    """The tokens may be in any thread and panel. If the logits are not finite, there is no token."""
    engine = load(tmp_path, "llama", dtype, library, tie_word_embeddings=False)
    assert isinstance(engine._forward, NativeForward)
    decoder = engine._forward._decoder
    original = head_panels(decoder).clone()
    head = head_panels(decoder)
    vocab_size = decoder._vocab_size
    dice = random.Random(3)
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        head.copy_(original)
        logits = run(engine, Chunk(0, 0, [5, 6, 7])).logits
        winner = int(logits.argmax())
        twins = sorted({dice.randrange(vocab_size) for _ in range(4)} | {winner})
        for twin in twins:
            column(head, twin).copy_(column(original, winner))
        assert run(engine, Chunk(0, 0, [5, 6, 7])).best == [twins[0]]
        for spoiler in (torch.nan, torch.inf):
            column(head, dice.randrange(vocab_size)).fill_(spoiler)
            answer = run(engine, Chunk(0, 0, [5, 6, 7]))
            assert answer.best == [NO_TOKEN] == best_tokens(answer.logits).tolist()


def head_panels(decoder: Decoder) -> Tensor:
    """Returns the head's weights as the C code reads them."""
    head = decoder._model.head
    start = (head.panels - decoder._panels.data_ptr()) // decoder._panels.itemsize
    neighbours = 4 // decoder._panels.itemsize
    panel = decoder._library.panel_outputs
    return decoder._panels[start:].view(-1, head.inputs // neighbours, panel, neighbours)


def column(panels: Tensor, output: int) -> Tensor:
    """Returns an output's weights of a layer's panels, [panels, in / neighbours, panel, neighbours]."""
    panel = panels.shape[2]
    return panels[output // panel, :, output % panel]


@pytest.mark.parametrize("panel", [16, 64])
@pytest.mark.parametrize(
    ("dtype", "neighbours"),
    [(torch.float32, None), (torch.bfloat16, None), (torch.int8, 2), (torch.int8, None)],
)
def test_weights_are_in_panels(dtype: torch.dtype, neighbours: int | None, panel: int) -> None:
    weight = (torch.arange(70 * 12) % 120).view(70, 12).to(dtype)
    panels = in_panels(weight, panel, neighbours)
    side_by_side = neighbours or 4 // dtype.itemsize
    count = -(-70 // panel)
    assert panels.shape == (count, 12 // side_by_side, panel, side_by_side)
    for output in range(70):
        assert column(panels, output).flatten().tolist() == weight[output].tolist()
    assert not panels[-1, :, 70 - (count - 1) * panel :].any()
