"""Outputs divided by the response template of a model's tokenizer, also if the worker is killed meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from openai import OpenAI
from transformers.utils.chat_parsing import parse_response

from tests.integration.bundled_fleet import MODEL, Fleet, bundled_fleet
from tests.integration.jobs import started

SENTENCE = {"close": ".", "repeats": True}
TEMPLATE: dict[str, Any] = {
    "start_anchor": "<|assistant|>",
    "fields": {
        "thinking": {"open": "there was", "join": " ", **SENTENCE},
        "tool_calls": {
            "open_pattern": r"(?:He|She|They) (?P<name>\w+)",
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": {"how": "{content}"}},
            },
            **SENTENCE,
        },
        "content": {},
    },
}
"""The words of the bundled model's tales stand for marks, because it knows none."""

HELLO: Any = [{"role": "user", "content": "Tell me a tale."}]
TOOL: Any = {"type": "function", "function": {"name": "went"}}
OPTIONS: dict[str, Any] = {"model": MODEL, "messages": HELLO, "tools": [TOOL], "seed": 7, "max_tokens": 250}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with bundled_fleet(tmp_path_factory.mktemp("workers"), TEMPLATE) as running:
        yield running


@pytest.fixture(scope="module")
def sdk(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    with fleet.sdk(tmp_path_factory.mktemp("web")) as opened:
        yield opened


def streamed(chunks: Iterable[Any]) -> dict[str, Any]:
    """Returns the message that a stream's chunks have."""
    deltas = [chunk.choices[0].delta.model_dump(exclude_none=True) for chunk in chunks]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    texts = {
        name: "".join(delta.get(name, "") for delta in deltas) for name in ("reasoning_content", "content")
    }
    return {**texts, "tool_calls": [call["function"] for call in calls]}


def test_a_message_is_what_transformers_makes_of_the_text(sdk: OpenAI, fleet: Fleet) -> None:
    answer = sdk.chat.completions.with_raw_response.create(**OPTIONS)
    job = fleet.store.get(answer.headers["X-Job-ID"])
    message: Any = answer.parse().choices[0].message
    whole = parse_response(job.output[0].text, TEMPLATE, prefix="<|assistant|>", tools=[TOOL])
    assert message.reasoning_content == whole["thinking"]
    calls = [call.function for call in message.tool_calls]
    expected = [(call["function"]["name"], call["function"]["arguments"]) for call in whole["tool_calls"]]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == expected
    assert calls
    assert message.content
    response: Any = sdk.responses.create(
        model=MODEL,
        input="Tell me a tale.",
        tools=[{"type": "function", "name": "went", "parameters": None, "strict": False}],
        extra_body={"seed": 7},
        max_output_tokens=250,
    )
    kinds = [item.type for item in response.output]
    assert kinds.count("function_call") == len(calls)
    assert "reasoning" in kinds
    assert "message" in kinds


def test_a_stream_survives_its_worker(sdk: OpenAI, fleet: Fleet) -> None:
    create = sdk.chat.completions.with_raw_response.create
    undisturbed = streamed(create(**OPTIONS, stream=True).parse())
    answer = create(**OPTIONS, stream=True)
    job_id = answer.headers["X-Job-ID"]
    fleet.kill(started(fleet.store, job_id, tokens=40).attempts[0].worker)
    assert streamed(answer.parse()) == undisturbed
    assert undisturbed["reasoning_content"]
    assert undisturbed["tool_calls"]
    assert len(fleet.store.get(job_id).attempts) == 2
