"""How a worker finds a model's reasoning marks, gives it earlier reasoning, and shows marks in outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.leases import Claim
from tasks.reasoning_marks import SHOWN_SINCE_VERSION, ReasoningMarks
from tasks.request import JobRequest
from tests.engine.tiny import TEMPLATE, load_saved, save_model, settings_for
from worker.engine import load_engine
from worker.engine.base import Engine, RequestOutput
from worker.engine.text.prompts import PromptEncoder
from worker.engine.text.tokenizer import load_tokenizer
from worker.job_run import JobRun

OPENING = TEMPLATE + "{% if add_generation_prompt %}<think>\n{% endif %}"
EMPTY_BLOCK = TEMPLATE + "{% if add_generation_prompt %}<think>\n\n</think>\n\n{% endif %}"
PARTS = (
    "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    "{{ raise_exception('no text') if messages[0].content is string }}<think>"
)
REFUSING = "{{ raise_exception('no') }}"
USER = {"role": "user", "content": "a fox"}
THINK = ("<think>", "</think>")
BRACKETS = ("[THINK]", "[/THINK]")


def tokenizer(folder: Path, template: str | None, plain: Any = (), special: Any = ()) -> Any:
    save_model(folder, "llama", template=False)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    loaded = load_tokenizer(str(folder), "model")
    loaded.add_tokens(list(plain))
    loaded.add_special_tokens({"additional_special_tokens": list(special)})
    return loaded


def encoder(folder: Path, template: str | None, plain: Any = (), special: Any = ()) -> PromptEncoder:
    return PromptEncoder(tokenizer(folder, template, plain, special), "my-model", 4096)


@pytest.mark.parametrize(
    ("template", "is_opened"),
    [(OPENING, True), (TEMPLATE, False), (EMPTY_BLOCK, False), (PARTS, True), (REFUSING, False)],
    ids=["opens it", "leaves it to the model", "closes it", "takes lists of parts", "refuses to be tried"],
)
def test_marks_are_found(tmp_path: Path, template: str, is_opened: bool) -> None:
    found = encoder(tmp_path, template, plain=THINK).reasoning_marks
    assert found == ReasoningMarks(*THINK, is_opened=is_opened)


@pytest.mark.parametrize(
    ("template", "plain", "special"),
    [(OPENING, (), ()), (OPENING, ("<think>",), ()), (None, THINK, ()), (None, (), THINK)],
    ids=["no token", "no closing token", "no template", "no template, special tokens"],
)
def test_a_model_without_them_writes_no_reasoning(
    tmp_path: Path, template: str | None, plain: Any, special: Any
) -> None:
    assert encoder(tmp_path, template, plain, special).reasoning_marks is None


def test_marks_may_be_special_tokens(tmp_path: Path) -> None:
    found = encoder(tmp_path, TEMPLATE, special=BRACKETS).reasoning_marks
    assert found == ReasoningMarks(*BRACKETS, is_opened=False, version=SHOWN_SINCE_VERSION)


def test_of_two_pairs_the_opened_one_counts(tmp_path: Path) -> None:
    found = encoder(tmp_path, OPENING.replace("<think>", "[THINK]"), plain=(*THINK, *BRACKETS))
    assert found.reasoning_marks == ReasoningMarks(*BRACKETS, is_opened=True)


def test_earlier_reasoning_is_passed_to_the_template(tmp_path: Path) -> None:
    template = "{% for m in messages %}[{{ m.reasoning_content or '' }}|{{ m.content }}]{% endfor %}"
    talk = [USER, {"role": "assistant", "content": "yes", "reasoning_content": "hm"}, USER]
    prompt = encoder(tmp_path, template).encode(JobRequest.model_validate({"messages": talk}))
    assert prompt.decode(prompt.token_ids) == "[|a fox][hm|yes][|a fox]"


def engine_of(folder: Path, plain: Any = (), special: Any = (), template: str = TEMPLATE) -> Engine:
    """Returns an engine with a random model whose tokenizer has further tokens."""
    changed = tokenizer(folder, template, plain, special)
    save_model(folder, "llama", template=False, vocab_size=len(changed))
    changed.save_pretrained(folder)
    return load_engine(settings_for(folder))


def test_an_engine_tells_its_models_marks(tmp_path: Path) -> None:
    assert engine_of(tmp_path / "a", plain=THINK, template=OPENING).reasoning_marks == ReasoningMarks(
        *THINK, is_opened=True
    )
    plain = save_model(tmp_path / "b", "llama")
    assert load_saved(settings_for(plain).engine, plain).reasoning_marks is None


@pytest.mark.parametrize(("has_marks", "shown"), [(True, "[THINK]fox[/THINK]{}fox"), (False, "fox{}fox")])
@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "f"}}]])
def test_special_tokens_are_shown_where_the_record_names_them(
    tmp_path: Path, has_marks: bool, shown: str, tools: Any
) -> None:
    template = TEMPLATE + "{{ tools }}"
    engine = engine_of(tmp_path, special=(*BRACKETS, "[TOOL_CALLS]", "<|other|>"), template=template)
    request = JobRequest.model_validate({"messages": [USER], "tools": tools, "max_tokens": 50})
    marks = engine.reasoning_marks if has_marks else None
    run = JobRun(Claim("job_1", "t", request, False, ['["s",1]'], reasoning_marks=marks))
    [sequence] = run.begin(run.prepare(engine))
    text = "[THINK]<|other|>fox[/THINK][TOOL_CALLS]fox"
    for token_id in engine.encode(JobRequest(prompt=text)).token_ids:
        run.push(RequestOutput(sequence.request_id, (token_id,)))
    written = "".join(choice.text for choice in run.choices)
    assert written == shown.format("[TOOL_CALLS]" if tools else "")
