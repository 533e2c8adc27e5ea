"""Outputs that are restricted to a grammar, with ENGINE=vllm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.job import FinishReason
from tasks.log import choices, parse_entry
from tasks.request import JobRequest
from tasks.settings import EngineKind
from tests.engine.grammar_models import (
    CASES,
    PERSON,
    Restricted,
    accepts_json,
    job_run,
    remove_eos,
    run_job,
)
from tests.engine.tiny import (
    EOS_ID,
    WIDE,
    Outputs,
    generate,
    load,
    load_saved,
    save_model,
    settings_for,
)
from worker.engine.base import Engine, EngineRequest, SamplingParams
from worker.engine.grammar.matcher import GrammarMatcher
from worker.engine.transformers.engine import TransformersEngine
from worker.engine.vllm.core_grammar import CoreGrammar

VOCABULARY = 320
"""How many ids the model has."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    loaded = load(EngineKind.VLLM, folder, "llama")
    yield loaded
    loaded.shutdown()


@pytest.mark.parametrize("case", CASES)
def test_the_output_is_that_of_the_transformers_engine(engine: Engine, folder: Path, case: str) -> None:
    """Both have the same grammars, and take the likeliest token of the same model."""
    outputs, accepts = CASES[case]
    restricted = Restricted(engine, outputs)
    token_ids, reason = restricted.run()
    assert reason is FinishReason.STOP
    assert accepts(restricted.text(token_ids)), restricted.text(token_ids)
    assert Restricted(TransformersEngine(settings_for(folder)), outputs).run() == (token_ids, reason)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [{"temperature": 1.0, "seed": 3}, {"temperature": 2.0, "top_k": 40}])
def test_any_drawn_output_is_what_the_grammar_says(
    engine: Engine, case: str, options: dict[str, Any]
) -> None:
    outputs, accepts = CASES[case]
    restricted = Restricted(engine, outputs)
    for choice in (0, 1):
        token_ids, reason = restricted.run(choice=choice, **options)
        assert reason is FinishReason.STOP
        assert accepts(restricted.text(token_ids)), restricted.text(token_ids)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.2}], ids=["plain", "penalized"])
def test_a_run_that_is_cut_after_any_token_continues_alike(
    engine: Engine, case: str, options: dict[str, Any]
) -> None:
    restricted = Restricted(engine, CASES[case][0])
    whole, _ = restricted.run(**options)
    for cut in range(len(whole)):
        rest, reason = restricted.run(logged=tuple(whole[:cut]), **options)
        assert ([*whole[:cut], *rest], reason) == (whole, FinishReason.STOP)


def test_a_job_of_several_choices_continues_after_any_entry_of_its_log(engine: Engine) -> None:
    whole = run_job(engine, job_run([], n=3, seed=7, max_tokens=70))
    texts = [choice.text for choice in choices([*map(parse_entry, whole)], 3)]
    assert all(accepts_json(PERSON)(text) for text in texts)
    for cut in range(0, len(whole), 5):
        rest = run_job(engine, job_run(whole[:cut], n=3, seed=7, max_tokens=70))
        continued = choices([*map(parse_entry, whole[:cut] + rest)], 3)
        assert all(accepts_json(PERSON)(one.text) for one in continued)
        assert {one.finish_reason for one in continued} == {FinishReason.STOP}


def test_other_sequences_of_the_batch_stay_as_they_are(engine: Engine) -> None:
    prompt_ids = engine.encode(JobRequest(prompt="once upon")).token_ids
    sampling = SamplingParams(max_tokens=30, ignore_eos=True, temperature=0.0)
    free = [EngineRequest(f"free {i}", prompt_ids[i:], (), sampling) for i in range(2)]
    alone = [generate(engine, one)[0] for one in free]
    restricted = Restricted(engine, {"json": PERSON})
    expected, _ = restricted.run()
    assert generate(engine, free[0], restricted.request(), free[1]) == [alone[0], expected, alone[1]]


def test_a_sequence_that_ended_frees_its_slot(engine: Engine) -> None:
    restricted = Restricted(engine, {"choice": ["yes", "no"]})
    for _ in range(3):
        for index in range(engine.max_num_seqs):
            engine.add_request(restricted.request(str(index)))
        outputs = Outputs(engine).run()
        assert set(outputs.finished.values()) == {FinishReason.STOP}
        assert not engine.has_unfinished_requests()


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


@pytest.mark.parametrize("kept", range(4))
def test_tokens_that_were_only_tried_are_taken_back(engine: Engine, kept: int) -> None:
    """vLLM does so with tokens that its speculative decoding proposes."""
    restricted = Restricted(engine, {"regex": "[ab]{4}c*"})
    [*letters, _] = restricted.run(max_tokens=5)[0]
    matcher = restricted.grammar.matcher(())
    assert isinstance(matcher, GrammarMatcher)
    grammar = CoreGrammar(matcher, {EOS_ID})
    assert grammar.accept_tokens("one", letters[:kept])
    before = mask(grammar)
    assert grammar.accept_tokens("one", [*letters[kept:], EOS_ID, EOS_ID])
    assert grammar.is_terminated()
    grammar.rollback(len(letters) + 2 - kept)
    assert torch.equal(mask(grammar), before)
    assert not grammar.is_terminated()


def mask(grammar: CoreGrammar) -> torch.Tensor:
    rows = torch.zeros(1, VOCABULARY // 32, dtype=torch.int32)
    grammar.fill_bitmask(rows, 0)
    return rows[0]


def test_an_empty_output_ends_without_a_token(engine: Engine) -> None:
    assert Restricted(engine, {"grammar": 'start: ""'}).run(ignore_eos=True) == ([], FinishReason.STOP)


def test_logprobs_are_those_of_the_tokens_that_may_come(engine: Engine) -> None:
    restricted = Restricted(engine, {"regex": "[ab]"})
    engine.add_request(restricted.request(logprobs=2))
    outputs = Outputs(engine).run()
    [token] = outputs.logprobs["one"]
    assert {restricted.text([token_id]) for token_id, _ in token.top} == {"a", "b"}
    assert token.logprob == token.top[0][1]


def test_a_mask_that_cannot_be_computed_fails_its_sequence_alone(engine: Engine) -> None:
    prompt_ids = engine.encode(JobRequest(prompt="once upon")).token_ids
    sampling = SamplingParams(max_tokens=20, ignore_eos=True, temperature=0.0)
    free = EngineRequest("free", prompt_ids, (), sampling)
    [expected] = generate(engine, free)
    properties = {f"p{index}": {"type": "string"} for index in range(1500)}
    hostile = Restricted(engine, {"json": {"type": "object", "properties": properties}})
    for request in (hostile.request(), free):
        engine.add_request(request)
    outputs = Outputs(engine).run()
    assert outputs.token_ids["free"] == expected
    assert (outputs.token_ids["one"], outputs.finished["one"]) == ([], FinishReason.ERROR)
    assert str(outputs.errors["one"]).startswith("structured_outputs: vLLM's engine core cannot follow")


def test_a_model_without_an_end_of_sequence_ends_with_its_grammar(tmp_path: Path) -> None:
    save_model(tmp_path, "llama", **WIDE["llama"])
    remove_eos(tmp_path)
    engine = load_saved(EngineKind.VLLM, tmp_path)
    restricted = Restricted(engine, {"regex": "a{2,4}"})
    token_ids, reason = restricted.run()
    assert (restricted.text(token_ids), reason) == ("aaaa", FinishReason.STOP)
    engine.shutdown()
