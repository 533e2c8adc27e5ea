"""Jobs with a grammar: any number of choices, takeovers, and grammars that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders

from tasks.errors import EngineError, InvalidGrammarError
from tasks.job import FinishReason
from tasks.log import TokenEntry, choices, parse_entry
from tasks.request import JobRequest
from tasks.settings import EngineKind, Settings
from tests.engine.grammar_models import (
    PERSON,
    Restricted,
    accepts_json,
    job_run,
    loaded,
    run_job,
    save_with,
)
from tests.engine.tiny import Outputs, generate, settings_for
from tests.unit.small_tokenizers import TOKENIZERS
from worker.engine import load_engine
from worker.engine.base import Engine, EngineRequest, SamplingParams
from worker.engine.grammar import matcher as matcher_module
from worker.engine.transformers.engine import TransformersEngine


@pytest.fixture(scope="module")
def bundled() -> Engine:
    return loaded("bundled", Path())


def test_a_mask_that_cannot_be_computed_fails_its_sequence_alone(bundled: Engine) -> None:
    engine = bundled
    prompt_ids = engine.encode(JobRequest(prompt="once upon")).token_ids
    free = EngineRequest(
        "free", prompt_ids, (), SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    )
    [expected] = generate(engine, free)
    properties = {f"p{index}": {"type": "string"} for index in range(1500)}
    hostile = Restricted(engine, {"json": {"type": "object", "properties": properties}})
    for request in (hostile.request(), free):
        engine.add_request(request)
    outputs = Outputs(engine).run()
    assert outputs.token_ids["free"] == expected
    assert outputs.finished["one"] is FinishReason.ERROR
    assert str(outputs.errors["one"]).startswith("structured_outputs: Parser Error: Current row has ")


def test_masks_that_take_too_long_fail_their_sequence(
    bundled: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    restricted = Restricted(bundled, {"regex": "[a-z ]*"})
    monkeypatch.setattr(matcher_module, "BURST_SECONDS", 1e-9)
    bundled.add_request(restricted.request())
    outputs = Outputs(bundled).run()
    assert outputs.finished["one"] is FinishReason.ERROR
    assert str(outputs.errors["one"]).startswith("structured_outputs: the grammar is too costly")


def test_an_output_that_does_not_fit_the_grammar_cannot_be_continued(bundled: Engine) -> None:
    restricted = Restricted(bundled, {"regex": "[0-9]*"})
    letters = bundled.encode(JobRequest(prompt="fox")).token_ids
    with pytest.raises(EngineError, match="token 1 of the earlier attempts' output does not fit the grammar"):
        restricted.grammar.matcher(letters)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"json": {"type": "integer", "multipleOf": 9_999_991}}, "takes longer than 2 s to compile"),
        ({"grammar": "start: " + "".join(f"r{i}\nr{i}: " for i in range(4800)) + '"a"'}, "is too complex"),
    ],
)
def test_a_hostile_grammar_is_refused(bundled: Engine, outputs: dict[str, Any], message: str) -> None:
    """The first one would be compiled for hours, the second one overflows the stack."""
    with pytest.raises(InvalidGrammarError, match=message):
        bundled.compile(outputs)  # type: ignore[arg-type]


def test_a_tokenizer_whose_tokens_change_their_neighbours_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(TOKENIZERS["byte-fallback"].to_str())
    tokenizer.decoder = decoders.Sequence(
        [decoders.Fuse(), decoders.Replace("▁", " "), decoders.Replace(Regex("[e-z] "), "_")]
    )
    save_with(tmp_path, tokenizer)
    engine = TransformersEngine(settings_for(tmp_path))
    with pytest.raises(EngineError, match="changes a token's text with its neighbours"):
        engine.compile({"regex": "a"})


@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 7}], ids=["greedy", "seeded"])
def test_a_job_of_several_choices_continues_after_any_entry_of_its_log(
    bundled: Engine, options: dict[str, Any]
) -> None:
    whole = run_job(bundled, job_run([], n=3, **options))
    texts = [choice.text for choice in choices([*map(parse_entry, whole)], 3)]
    assert all(accepts_json(PERSON)(text) for text in texts)
    assert len(set(texts)) == (1 if options.get("temperature") == 0 else 3)
    for cut in range(len(whole)):
        rest = run_job(bundled, job_run(whole[:cut], n=3, **options))
        continued = choices([*map(parse_entry, whole[:cut] + rest)], 3)
        assert [one.text for one in continued] == texts
        assert {one.finish_reason for one in continued} == {FinishReason.STOP}


def test_a_choice_whose_logged_output_is_complete_only_ends(bundled: Engine) -> None:
    """Its end is not in the log: the worker died before it wrote the entry."""
    whole = run_job(bundled, job_run([], structured_outputs={"choice": ["a fox", "the fox"]}, temperature=0))
    [logged] = choices([*map(parse_entry, whole)], 1)
    unfinished = TokenEntry(0, tuple(logged.token_ids), logged.text).encode()
    [end] = run_job(bundled, job_run([unfinished], structured_outputs={"choice": ["a fox", "the fox"]}))
    assert parse_entry(end) == TokenEntry(0, (), "", FinishReason.STOP)


def test_a_stop_string_ends_an_output_in_its_middle(bundled: Engine) -> None:
    run = job_run([], structured_outputs={"regex": "abc123"}, stop=["c1"])
    [choice] = choices([*map(parse_entry, run_job(bundled, run))], 1)
    assert (choice.text, choice.finish_reason) == ("ab", FinishReason.STOP)


def test_an_engine_without_a_model_refuses_a_grammar() -> None:
    echo = load_engine(Settings(engine=EngineKind.ECHO))
    with pytest.raises(EngineError, match="structured_outputs: the echo engine has no model"):
        job_run([]).prepare(echo)
