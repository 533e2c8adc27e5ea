"""What a model or the SDK's helpers returned may be sent back as it came."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ParsedChatCompletionMessage
from openai.types.responses import ParsedResponseFunctionToolCall, ParsedResponseOutputMessage
from pydantic import BaseModel

from tasks.errors import InvalidRequestError
from web.json_body import validated
from web.openai.chat_parameters import ChatParameters
from web.openai.responses.parameters import ResponseParameters


class City(BaseModel):
    name: str


HELLO: dict[str, Any] = {"role": "user", "content": "hello"}
FUNCTION = {"name": "f", "arguments": "{}"}
CALL: dict[str, Any] = {"id": "c", "type": "function", "function": FUNCTION}
PARSED_CALL = {**CALL, "index": 0, "function": {**FUNCTION, "parsed_arguments": {}}}
PARSED = ParsedChatCompletionMessage[City].model_validate(
    {"role": "assistant", "content": '{"name": "Oslo"}', "parsed": {"name": "Oslo"}, "annotations": []}
)


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        (PARSED.model_dump(), {"content": '{"name": "Oslo"}'}),
        ({"content": None, "tool_calls": [PARSED_CALL]}, {"content": "", "tool_calls": [CALL]}),
        ({"content": None, "refusal": None}, {"content": ""}),
        ({"content": [{"type": "text", "text": "a", "prompt_cache_breakpoint": None}]}, {"content": "a"}),
        ({"content": "a", "name": "ada"}, {"content": "a", "name": "ada"}),
    ],
)
def test_a_message_of_the_assistant(message: dict[str, Any], kept: dict[str, Any]) -> None:
    body = {"messages": [HELLO, {"role": "assistant", **message}, HELLO]}
    [_, turn, _] = validated(ChatParameters, body).job().messages or []
    found = {**turn.model_dump(exclude_none=True), "content": turn.text}
    assert found == {"role": "assistant", **kept}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "assistant"}, "content"),
        ({"role": "assistant", "content": "a", "refusal": "no"}, "refusal"),
        ({"role": "assistant", "content": "a", "annotations": [{}]}, "annotations"),
        ({"role": "user", "content": "a", "parsed": {}}, "parsed"),
        ({"role": "user", "content": None}, "content"),
        ({"role": "assistant", "tool_calls": ["x"]}, "tool_calls.0"),
        ({"role": "assistant", "tool_calls": [{**CALL, "function": "f"}]}, "tool_calls.0.function"),
    ],
)
def test_what_no_model_returned_is_refused_by_name(message: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        validated(ChatParameters, {"messages": [message]})
    assert [error.field for error in refusal.value.errors] == [f"messages.0.{field}"]


def test_items_of_a_parsed_response() -> None:
    text = {"type": "output_text", "text": "{}", "annotations": [], "parsed": {"name": "Oslo"}}
    message = ParsedResponseOutputMessage[City].model_validate(
        {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    )
    call = ParsedResponseFunctionToolCall.model_validate(
        {"type": "function_call", "call_id": "c", **FUNCTION, "parsed_arguments": {}}
    )
    output = {"type": "function_call_output", "call_id": "c", "output": "yes"}
    items = [{"role": "user", "content": "hello"}, message.model_dump(), call.model_dump(), output]
    job = validated(ResponseParameters, {"input": items}).job([])
    assert [turn.role for turn in job.messages or []] == ["user", "assistant", "tool"]


def test_nulls_among_structured_outputs_count_as_absent() -> None:
    body = {"messages": [HELLO], "structured_outputs": {"regex": "a", "json": None}}
    assert validated(ChatParameters, body).job().structured_outputs == {"regex": "a"}
