"""Conversations: how the model's chat template renders them, and which ones it refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import InvalidMessagesError, InvalidPromptError
from tasks.request import JobRequest
from tests.engine.tiny import save_model
from worker.engine.base import Prompt
from worker.engine.text.prompts import PromptEncoder
from worker.engine.text.tokenizer import load_tokenizer

USER = {"role": "user", "content": "a fox"}
PARTS = "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}[{{ p.text }}]{% endif %}"
PARTS += "{% endfor %}{% endfor %}"


def encoder(folder: Path, template: str | None) -> PromptEncoder:
    save_model(folder, "llama", template=False)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return PromptEncoder(load_tokenizer(str(folder), "model"), "my-model", 4096)


def encode(encoder: PromptEncoder, *messages: dict[str, Any]) -> Prompt:
    return encoder.encode(JobRequest.model_validate({"messages": list(messages)}))


def text_of(prompt: Prompt) -> str:
    return prompt.decode(prompt.token_ids)


def test_messages_are_rendered_with_the_models_template(tmp_path: Path) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    template += "{% if add_generation_prompt %}<assistant>{% endif %}"
    prompt = encode(encoder(tmp_path, template), {"role": "developer", "content": "brief"}, USER)
    assert text_of(prompt) == "<developer>brief<user>a fox<assistant>"


@pytest.mark.parametrize(
    "template",
    [
        PARTS,
        PARTS.replace(
            "{% for p", "{% if m.content is string %}{{ raise_exception('no string') }}{% endif %}{% for p"
        ),
    ],
)
def test_a_template_for_lists_of_parts_gets_one(tmp_path: Path, template: str) -> None:
    """Such a template takes a string for a list of characters, and shows nothing of it or refuses it."""
    model = encoder(tmp_path, template)
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "fox"}]
    assert text_of(encode(model, USER, {"role": "user", "content": parts})) == "[a fox][a fox]"


def test_messages_need_a_template(tmp_path: Path) -> None:
    with pytest.raises(InvalidMessagesError, match="the model my-model has no chat template; send `prompt`"):
        encode(encoder(tmp_path, None), USER)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].role + 1 }}", "can only concatenate str"),
        ("{{ messages[5].role }}", "list object has no element 5"),
        ("{{ messages[0].content.nothing() }}", "has no attribute 'nothing'"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ 1 // 0 }}", "division"),
        ("{% if %}", "Expected an expression"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ],
)
def test_messages_that_the_template_refuses(tmp_path: Path, template: str, reason: str) -> None:
    """It may raise anything. The prompts of other jobs are encoded nevertheless."""
    model = encoder(tmp_path, template)
    with pytest.raises(InvalidMessagesError, match=f"template refuses these messages: .*{reason}") as caught:
        encode(model, USER)
    assert caught.value.code == "invalid_messages"
    assert "\n" not in str(caught.value)
    assert model.encode(JobRequest(prompt="a")).token_ids


def test_only_the_messages_that_a_template_refuses_fail(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    model = encoder(tmp_path, template + "{{ m.content }}{% endfor %}")
    with pytest.raises(InvalidMessagesError, match="no system role"):
        encode(model, {"role": "system", "content": "brief"}, USER)
    assert text_of(encode(model, USER)) == "a fox"


def test_messages_without_a_token(tmp_path: Path) -> None:
    model = encoder(tmp_path, "{{ '' }}")
    with pytest.raises(InvalidMessagesError, match="the messages hold no token"):
        encode(model, USER)


def test_a_templates_date_is_that_of_the_jobs_first_start(tmp_path: Path) -> None:
    """Otherwise an attempt after midnight would continue another prompt."""
    model = encoder(tmp_path, "{{ strftime_now('%Y-%m-%d %H:%M') }} {{ messages[0].content }}")
    request = JobRequest.model_validate({"messages": [USER]})
    assert text_of(model.encode(request, now=86_399.5)) == "1970-01-01 23:59 a fox"
    assert text_of(model.encode(request, now=86_400.5)) == "1970-01-02 00:00 a fox"
    assert text_of(model.encode(request)).startswith(f"{datetime.now(UTC):%Y}")


def test_token_ids_are_fed_as_they_are_given(tmp_path: Path) -> None:
    model = encoder(tmp_path, None)
    given = model.encode(JobRequest(prompt="a fox")).token_ids
    assert model.encode(JobRequest(prompt_token_ids=list(given[1:]))).token_ids == given[1:]


def test_a_token_id_that_the_model_lacks_is_refused_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidPromptError, match=r"prompt_token_ids\.1: 2000000 is no token of my-model"):
        encoder(tmp_path, None).encode(JobRequest(prompt_token_ids=[3, 2_000_000]))
