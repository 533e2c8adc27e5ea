"""Outputs that are restricted to a grammar, on models with tokenizers of several kinds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.errors import InvalidGrammarError
from tasks.job import FinishReason
from tasks.request import JobRequest
from tests.engine.grammar_models import CASES, ENGINES, PERSON, Restricted, loaded, remove_eos
from tests.engine.tiny import WIDE, Outputs, generate, save_model, settings_for
from worker.engine.base import Engine, EngineRequest, SamplingParams
from worker.engine.native.library import NativeLibrary
from worker.engine.native.sampler import NativeSampler
from worker.engine.sampling import Row, noise_key, sample
from worker.engine.transformers.engine import TransformersEngine


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return loaded(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def bundled() -> Engine:
    return loaded("bundled", Path())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 2.0, "top_k": 40}])
def test_the_output_is_what_the_grammar_says(engine: Engine, case: str, options: dict[str, Any]) -> None:
    outputs, accepts = CASES[case]
    restricted = Restricted(engine, outputs)
    for choice in (0, 1):
        token_ids, reason = restricted.run(choice=choice, **options)
        assert reason is FinishReason.STOP
        assert accepts(restricted.text(token_ids)), restricted.text(token_ids)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0, "seed": 3, "choice": 1}], ids=["greedy", "seeded"]
)
def test_a_run_that_is_cut_after_any_token_continues_alike(
    engine: Engine, case: str, options: dict[str, Any]
) -> None:
    restricted = Restricted(engine, CASES[case][0])
    whole, _ = restricted.run(**options)
    for cut in range(len(whole)):
        rest, reason = restricted.run(logged=tuple(whole[:cut]), **options)
        assert ([*whole[:cut], *rest], reason) == (whole, FinishReason.STOP)
    text = restricted.text(whole)
    if restricted.text(whole[:-1]) != text:  # No end of sequence has come, which nobody continues after.
        assert restricted.grammar.matcher(whole).is_complete


def test_other_sequences_of_the_batch_keep_their_bits(engine: Engine) -> None:
    prompt_ids = engine.encode(JobRequest(prompt="once upon")).token_ids
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 1.0, "seed": 5},
        {"temperature": 1.0, "seed": 6, "top_p": 0.9, "repetition_penalty": 1.2},
    ]
    free = [
        EngineRequest(f"free {i}", prompt_ids, (), SamplingParams(max_tokens=30, ignore_eos=True, **options))
        for i, options in enumerate(kinds)
    ]
    alone = [generate(engine, one)[0] for one in free]
    restricted = Restricted(engine, {"json": PERSON})
    expected, _ = restricted.run(temperature=1.0)
    assert generate(engine, *free, restricted.request(temperature=1.0)) == [*alone, expected]


def test_logprobs_are_those_of_the_model_itself(engine: Engine) -> None:
    restricted = Restricted(engine, {"choice": ["zebra", "quux"]})
    options: dict[str, Any] = {"logprobs": 5, "max_tokens": 1}
    free = EngineRequest("free", restricted.prompt.token_ids, (), SamplingParams(temperature=0, **options))
    for request in (free, restricted.request(**options)):
        engine.add_request(request)
    outputs = Outputs(engine).run()
    [own], [of_restricted] = outputs.logprobs["free"], outputs.logprobs["one"]
    assert of_restricted.top == own.top
    assert outputs.token_ids["one"] != outputs.token_ids["free"]
    assert of_restricted.logprob < own.logprob


def test_max_tokens_may_end_an_output_in_its_middle(engine: Engine) -> None:
    restricted = Restricted(engine, {"json": PERSON})
    whole, _ = restricted.run()
    assert restricted.run(max_tokens=3) == (whole[:3], FinishReason.LENGTH)
    assert restricted.run(max_tokens=len(whole)) == (whole, FinishReason.STOP)


def test_an_end_that_is_ignored_does_not_come_before_the_grammars_own(engine: Engine) -> None:
    endless = Restricted(engine, {"regex": "(ab)*"})
    token_ids, reason = endless.run(ignore_eos=True, max_tokens=20)
    assert (len(token_ids), reason) == (20, FinishReason.LENGTH)
    assert re.fullmatch("(ab)*a?", endless.text(token_ids))
    complete = Restricted(engine, {"regex": "(ab){0,3}"})
    token_ids, reason = complete.run(ignore_eos=True)
    assert (complete.text(token_ids), reason) == ("ababab", FinishReason.STOP)


def test_a_grammar_may_name_a_special_token(bundled: Engine) -> None:
    [end, *_] = bundled.encode(JobRequest(prompt="a")).special_tokens.values()
    named = Restricted(bundled, {"grammar": f'start: "a" {end} | "b" {end}'})
    token_ids, reason = named.run()
    assert named.text(token_ids) in ("a", "b")
    assert reason is FinishReason.STOP
    with pytest.raises(InvalidGrammarError, match="unknown special token"):
        bundled.compile({"grammar": 'start: "a" <|no_such_token|>'})


def test_a_model_without_an_end_of_sequence_ends_with_its_grammar(tmp_path: Path) -> None:
    save_model(tmp_path, "llama", **WIDE["llama"])
    remove_eos(tmp_path)
    engine = TransformersEngine(settings_for(tmp_path))
    assert not engine._eos_ids
    restricted = Restricted(engine, {"regex": "a{2,4}"})
    assert [*map(restricted.text, [restricted.run()[0]])] == ["aaaa"]
    empty = Restricted(engine, {"grammar": 'start: ""'})
    engine.add_request(empty.request())
    outputs = Outputs(engine).run()
    assert (outputs.token_ids["one"], outputs.finished["one"]) == ([], FinishReason.STOP)


def test_an_ordinary_token_that_ends_sequences_ends_no_output_in_its_middle(tmp_path: Path) -> None:
    save_model(tmp_path, "llama", **WIDE["llama"])
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": vocabulary["a"]}))
    engine = TransformersEngine(settings_for(tmp_path))
    restricted = Restricted(engine, {"regex": "[ab]{6}[ac]{0,9}"})
    token_ids, reason = restricted.run()
    assert reason is FinishReason.STOP
    assert re.fullmatch("b{6}c*a?", restricted.text(token_ids))


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 5, "min_p": 0.1}]
)
def test_both_samplers_draw_allowed_tokens_only(library: NativeLibrary, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    logits = torch.randn(40, 333) * 5
    allowed = [torch.zeros(333, dtype=torch.bool) for _ in logits]
    for row, mask in enumerate(allowed):
        mask[torch.randperm(333)[: 1 + row % 4]] = True
    sampling = SamplingParams(**{"temperature": 0.0, **options})
    rows = [Row(sampling, noise_key(row, 0, 0), None, mask) for row, mask in enumerate(allowed)]
    drawn = sample(logits, rows)
    assert all(mask[token_id] for mask, token_id in zip(allowed, drawn, strict=True))
    assert NativeSampler(library)(logits, rows) == drawn
