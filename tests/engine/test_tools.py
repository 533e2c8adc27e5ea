"""Tools and calls in prompts, and the marks of calls in outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.errors import InvalidMessagesError
from tasks.request import JobRequest
from tests.engine.tiny import save_model
from worker.engine.base import Prompt
from worker.engine.text.detokenizer import Detokenizer
from worker.engine.text.prompts import PromptEncoder
from worker.engine.text.tokenizer import load_tokenizer

TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}:{{ tool.function.parameters.type }}]{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}({{ c.function.name }} {{ c.function.arguments.city }}){% endfor %}"
    "{% if m.tool_call_id %}#{{ m.tool_call_id }}{% endif %}{% endfor %}"
)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "fox"}'}}
TALK = [
    {"role": "user", "content": "a fox"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "rain", "tool_call_id": "c1"},
]


def encoder(folder: Path, template: str = TEMPLATE, special: tuple[str, ...] = ()) -> PromptEncoder:
    save_model(folder, "llama", template=False)
    (folder / "chat_template.jinja").write_text(template)
    loaded = load_tokenizer(str(folder), "model")
    loaded.add_special_tokens({"additional_special_tokens": list(special)})
    return PromptEncoder(loaded, "my-model", 4096)


def encode(encoder: PromptEncoder, **options: Any) -> Prompt:
    return encoder.encode(JobRequest.model_validate({"messages": TALK, **options}))


def test_tools_calls_and_results_are_rendered(tmp_path: Path) -> None:
    prompt = encode(encoder(tmp_path), tools=[TOOL])
    text = "[weather:object]<user>a fox<assistant>(weather fox)<tool>rain#c1"
    assert prompt.decode(prompt.token_ids) == text


def test_a_template_that_shows_no_tools_is_not_given_any(tmp_path: Path) -> None:
    model = encoder(tmp_path, TEMPLATE.partition("{% for m")[1] + TEMPLATE.partition("{% for m")[2])
    assert encode(model)
    with pytest.raises(InvalidMessagesError, match="the chat template of the model my-model shows no tools"):
        encode(model, tools=[TOOL])


@pytest.mark.parametrize(("options", "shown"), [({"tools": [TOOL]}, "[TOOL_CALLS]fox"), ({}, "fox")])
def test_special_tokens_that_mark_calls_are_part_of_outputs_with_tools(
    tmp_path: Path, options: dict[str, Any], shown: str
) -> None:
    model = encoder(tmp_path, special=("[TOOL_CALLS]", "<|other|>"))
    prompt = encode(model, **options)
    output = model.encode(JobRequest(prompt="[TOOL_CALLS]<|other|>fox")).token_ids
    decoder = prompt.new_decoder() if prompt.new_decoder else None
    detokenizer = Detokenizer(prompt.token_ids, prompt.decode, [], prompt.special_tokens, decoder)
    text = "".join([*(detokenizer.push([one]) for one in output), detokenizer.finish()])
    assert text.replace(" ", "") == shown
