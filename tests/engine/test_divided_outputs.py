"""How a worker logs the parts of outputs that it divides by its model's response template."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tasks.job import FinishReason
from tasks.leases import Claim
from tasks.log import choices, parse_entry
from tasks.output_parts import Call, Part, Reasoning
from tasks.request import JobRequest
from tests.engine.test_reasoning import tokenizer
from tests.engine.test_response_template import PLAIN, START, TAGS, TOOLS
from tests.engine.tiny import TEMPLATE, save_model, settings_for
from worker.engine import load_engine
from worker.engine.base import Engine, RequestOutput, TokenLogprobs
from worker.job_run import JobRun

BROKEN = {"start_anchor": START, "fields": {"content": {"content": "yaml"}}}
SPECIAL = ("<think>", "</think>", "<|end|>")
SHORT = '{"name": "f"}'
USER = {"role": "user", "content": "a fox"}


def engine_with(folder: Path, template: dict[str, Any] | None, chat_template: str = TEMPLATE) -> Engine:
    """Returns an engine with a random model whose tokenizer has a response template."""
    changed = tokenizer(folder, chat_template, special=SPECIAL)
    changed.response_template = template
    save_model(folder, "llama", template=False, vocab_size=len(changed))
    changed.save_pretrained(folder)
    return load_engine(settings_for(folder))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    opening = TEMPLATE + "{% if add_generation_prompt %}<think>{% endif %}{{ 'x' if tools }}"
    return engine_with(tmp_path_factory.mktemp("model"), PLAIN, opening)


def test_an_engine_with_a_response_template_divides_and_has_no_marks(engine: Engine) -> None:
    assert engine.divides_outputs
    assert engine.reasoning_marks is None


@pytest.mark.parametrize(("template", "warning"), [(BROKEN, "cannot be used"), (TAGS, "notes"), (None, "")])
def test_templates_that_say_more_or_less_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, template: Any, warning: str
) -> None:
    with caplog.at_level(logging.WARNING, "worker"):
        engine = engine_with(tmp_path, template)
    assert warning in caplog.text
    assert engine.divides_outputs == (template is TAGS)
    assert (engine.reasoning_marks is None) == engine.divides_outputs


def run_of(engine: Engine, log: list[str], *, is_divided: bool = True, **options: Any) -> JobRun:
    request = JobRequest.model_validate({"messages": [USER], "max_tokens": 60, **options})
    run = JobRun(Claim("job_1", "t", request, False, ['["s",1]', *log], is_divided=is_divided))
    for sequence in run.begin(run.prepare(engine)):
        assert sequence.output_ids == tuple(choices(map(parse_entry, log), 1)[0].token_ids)
    return run


def feed(engine: Engine, run: JobRun, text: str, *, logprobs: bool = False) -> None:
    for token_id in engine.encode(JobRequest(prompt=text)).token_ids:
        given = (TokenLogprobs(-1.0, ()),) if logprobs else None
        run.push(RequestOutput(run.choices[0].request.request_id, (token_id,), None, None, given))


def test_the_log_has_the_parts_beside_the_text(engine: Engine) -> None:
    run = run_of(engine, [], tools=TOOLS)
    log: list[str] = []
    for text in ("a fox", "</think>", "lived", " by", f"<tool_call>{SHORT}", "</tool_call>"):
        feed(engine, run, text)
        log += run.next_write().entries[len(log) :]
    run.choices[0].end(FinishReason.STOP)
    log = [*run.next_write().entries]
    [choice] = choices([parse_entry(entry) for entry in log], 1)
    assert choice.text == f"a fox</think>lived by<tool_call>{SHORT}</tool_call>"
    assert choice.parts is not None
    assert [part for part in choice.parts if not isinstance(part, str)] == [
        Reasoning("a fox"),
        Call("f", "{}"),
    ]
    assert "".join(part for part in choice.parts if isinstance(part, str)) == "lived by"


def test_most_entries_say_their_text_once(engine: Engine) -> None:
    run = run_of(engine, [])
    for text in ("a fox", "</think>", "lived"):
        feed(engine, run, text)
        run.next_write()
    first, closing, answer = [json.loads(entry) for entry in run.next_write().entries]
    assert first[3:] == ["a fox", None, None, [["r"]]]
    assert closing[3:] == ["</think>", None, None, []]
    assert answer[3:] == ["lived"]


@pytest.mark.parametrize("cut", range(7))
def test_the_next_attempt_logs_the_parts_that_are_missing(engine: Engine, cut: int) -> None:
    pieces = ["a", " fox", "</think>", " lived", f"<tool_call>{SHORT}", "</tool", "_call>"]
    whole, first = run_of(engine, [], tools=TOOLS), run_of(engine, [], tools=TOOLS)
    for piece in pieces:
        feed(engine, whole, piece)
        whole.next_write()
    for piece in pieces[:cut]:
        feed(engine, first, piece)
        first.next_write()
    log = [*first.next_write().entries]
    second = run_of(engine, log, tools=TOOLS)
    for piece in pieces[cut:]:
        feed(engine, second, piece)
        second.next_write()
    assert [*log, *second.next_write().entries] == [*whole.next_write().entries]


def test_log_probabilities_tell_what_belongs_to_the_reasoning(engine: Engine) -> None:
    run = run_of(engine, [], logprobs=0)
    for text in ("a", "</think>", "a"):
        feed(engine, run, text, logprobs=True)
    [entry] = run.next_write().entries
    [choice] = choices([parse_entry(entry)], 1)
    assert [token["token"] for token in choice.logprobs] == ["a", "</think>", "a"]
    assert choice.in_reasoning == [True, True, False]


class FailingDivider:
    """As if the parser of transformers had a fault."""

    is_in_reasoning = False

    def push(self, text: str) -> list[Part]:
        raise AttributeError(text)

    def finish(self) -> list[Part]:
        raise AttributeError("at the end")


def test_a_divider_that_fails_ends_its_job_and_nothing_else(engine: Engine) -> None:
    """The worker breaks a job off whose output raises anything, and that must not raise again."""
    run = run_of(engine, [])
    run.choices[0].divider = FailingDivider()
    with pytest.raises(AttributeError):
        feed(engine, run, "a")
    run.break_off("no")
    [entry] = run.next_write().entries
    assert json.loads(entry)[3:] == ["a", None, "error", []]


def test_a_job_that_does_not_ask_for_it_is_not_divided(engine: Engine) -> None:
    run = run_of(engine, [], is_divided=False)
    feed(engine, run, "a</think>fox")
    [entry] = run.next_write().entries
    assert json.loads(entry)[3:] == ["afox"]
