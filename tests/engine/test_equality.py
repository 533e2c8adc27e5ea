"""In float32 and greedy, a sequence equals `model.generate`'s, whatever else is in the batch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.job import FinishReason
from tasks.settings import EngineKind
from tests.engine.tiny import (
    CONFIGS,
    ENGINES,
    EOS_ID,
    MAX_POSITIONS,
    MORE_CONFIGS,
    Outputs,
    engine_request,
    generate,
    load,
)
from worker.engine.base import Engine, EngineRequest
from worker.engine.native.isa import supported
from worker.engine.native.native_forward import NativeForward
from worker.engine.native.weights import READERS
from worker.engine.torch.masks import Style
from worker.engine.torch.torch_forward import TorchForward
from worker.engine.transformers.engine import TransformersEngine

NARROW = ["opt-narrow", "gpt2-narrow", "llama-narrow", "qwen2-narrow"]
SHAPES = [*CONFIGS, *([] if EngineKind.VLLM in ENGINES else [*MORE_CONFIGS, *NARROW])]
"""Models to compare. Neither the native code nor vLLM supports heads that are 8 wide."""

ISAS = ["auto", *[isa.name for isa in supported()[1:]], "none"]
"""Kinds of native code: the machine's best one, all its others, and torch alone."""

NO_ID = 10**6
"""An end of sequence that is never generated."""


class Reference:
    """Generates one sequence at a time with transformers' `generate`."""

    def __init__(self, folder: Path) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model = model.eval()

    def __call__(self, request: EngineRequest) -> list[int]:
        prompt = torch.tensor([request.prompt_ids])
        output = self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=request.sampling.max_tokens,
            eos_token_id=NO_ID if request.sampling.ignore_eos else EOS_ID,
            do_sample=False,
            repetition_penalty=request.sampling.repetition_penalty,
        )
        token_ids: list[int] = output[0, prompt.shape[1] :].tolist()
        return token_ids

    @torch.inference_mode()
    def logprobs(self, token_ids: list[int], count: int) -> torch.Tensor:
        """Returns the logits of the last `count` tokens, given those before, [count, vocab]."""
        logits: torch.Tensor = self._model(torch.tensor([token_ids])).logits[0, -count - 1 : -1]
        return logits.double().log_softmax(dim=-1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(
    scope="module",
    params=[
        (engine, kind, isa)
        for engine in ENGINES
        if engine is not EngineKind.ECHO
        for kind in SHAPES
        for isa in (ISAS if engine is EngineKind.TRANSFORMERS and "-" not in kind else ["auto"])
    ],
    ids="-".join,
)
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    name, shape, isa = request.param
    kind, *narrow = shape.split("-")
    loaded = load(EngineKind(name), folder, kind, wide=not narrow, native_isa=isa)
    if isinstance(loaded, TransformersEngine):
        has_code = not narrow and isa != "none"
        assert isinstance(loaded._forward, NativeForward) == (has_code and kind in READERS)
        if isinstance(loaded._forward, TorchForward):
            assert loaded._forward._masks.style is (Style.KERNEL if has_code else Style.PRODUCTS)
    yield loaded
    loaded.shutdown()


@pytest.fixture(scope="module")
def reference(engine: Engine, folder: Path) -> Reference:  # noqa: ARG001  # It saves the model.
    return Reference(folder)


def requests_of_all_lengths(count: int) -> list[EngineRequest]:
    dice = random.Random(count)
    return [
        engine_request(
            f"r{index}",
            tuple(dice.randrange(2, 300) for _ in range(dice.choice([1, 2, 5, 9, 30, 60]))),
            max_tokens=dice.randint(1, 30),
            ignore_eos=dice.random() < 0.8,
        )
        for index in range(count)
    ]


def test_alone(engine: Engine, reference: Reference) -> None:
    request = engine_request("alone", tuple(range(10, 17)), max_tokens=40)
    expected = reference(request)
    assert len(set(expected)) > 5, "a model that repeats itself would not show a wrong position"
    assert generate(engine, request) == [expected]


def test_together(engine: Engine, reference: Reference) -> None:
    requests = requests_of_all_lengths(4)
    assert generate(engine, *requests) == [reference(request) for request in requests]


def test_with_joins_and_leaves(engine: Engine, reference: Reference) -> None:
    requests = requests_of_all_lengths(24)
    dice, coming, outputs = random.Random(1), list(requests), Outputs(engine)
    while coming or engine.has_unfinished_requests():
        busy = len(requests) - len(coming) - len(outputs.finished)
        for _ in range(min(dice.randint(0, 2), engine.max_num_seqs - busy, len(coming))):
            engine.add_request(coming.pop())
        outputs.step()
    for request in requests:
        assert outputs.token_ids[request.request_id] == reference(request), request


def test_with_aborts_in_between(engine: Engine, reference: Reference) -> None:
    """The last row moves into the freed one, and all rows must stay right."""
    stay = engine_request("stay", tuple(range(30, 50)), max_tokens=25)
    late = engine_request("late", tuple(range(60, 65)), max_tokens=25)
    outputs = Outputs(engine)
    for request in (engine_request("gone", (5, 6, 7)), stay, engine_request("also gone", (8,))):
        engine.add_request(request)
    outputs.step()
    engine.abort_request("gone")
    engine.add_request(late)
    outputs.step()
    engine.abort_request("also gone")
    outputs.run()
    assert outputs.token_ids["stay"] == reference(stay)
    assert outputs.token_ids["late"] == reference(late)


def test_up_to_the_models_length(engine: Engine, reference: Reference) -> None:
    prompt_ids = tuple(range(20, 40))
    room = engine.max_model_len - len(prompt_ids)
    [token_ids] = generate(engine, engine_request("long", prompt_ids, max_tokens=10_000))
    assert token_ids == reference(engine_request("long", prompt_ids, max_tokens=room))


@pytest.mark.parametrize("bad", [(10**6,), (-1,), (), tuple([5] * MAX_POSITIONS)])
def test_an_impossible_sequence_fails_alone(engine: Engine, bad: tuple[int, ...]) -> None:
    requests = [engine_request("first", (5, 6)), engine_request("last", (7, 8, 9))]
    expected = generate(engine, *requests)
    for request in (requests[0], engine_request("bad", bad), requests[1]):
        engine.add_request(request)
    outputs = Outputs(engine).run()
    assert outputs.finished["bad"] is FinishReason.ERROR
    assert outputs.errors["bad"]
    assert [outputs.token_ids["first"], outputs.token_ids["last"]] == expected


def test_choices_and_seeds_differ(engine: Engine) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "max_tokens": 15}
    requests = [
        engine_request(f"{seed}-{c}", (9,), seed=seed, choice=c, **options) for seed in (1, 2) for c in (0, 1)
    ]
    assert len({tuple(token_ids) for token_ids in generate(engine, *requests)}) == 4


@pytest.mark.parametrize("penalty", [0.8, 1.3, 2.0])
def test_repetition_penalty(engine: Engine, reference: Reference, penalty: float) -> None:
    requests = [
        engine_request(f"r{i}", tuple(range(10, 14 + 5 * i)), max_tokens=30, repetition_penalty=penalty)
        for i in range(3)
    ]
    assert generate(engine, *requests) == [reference(request) for request in requests]


def test_logprobs(engine: Engine, reference: Reference) -> None:
    """They are the model's, before penalties and temperature, and do not depend on the batch."""
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 1.5, "presence_penalty": 1.0, "logprobs": 5}
    requests = [engine_request(f"r{i}", tuple(range(10, 14 + 9 * i)), seed=i, **options) for i in range(4)]
    for request in requests:
        engine.add_request(request)
    outputs = Outputs(engine).run()
    for request in requests:
        token_ids = outputs.token_ids[request.request_id]
        expected = reference.logprobs([*request.prompt_ids, *token_ids], len(token_ids))
        for row, token_id, one in zip(expected, token_ids, outputs.logprobs[request.request_id], strict=True):
            assert one.logprob == pytest.approx(row[token_id].item(), abs=1e-3)
            assert [value for _, value in one.top] == pytest.approx(row.topk(5).values.tolist(), abs=1e-3)
            assert all(value == pytest.approx(row[best].item(), abs=1e-3) for best, value in one.top)
