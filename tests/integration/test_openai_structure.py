"""Outputs in a form that OpenAI's clients ask for, on the bundled model, whose worker is killed meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel

from tests.integration.bundled_fleet import MODEL, Fleet, bundled_fleet
from tests.integration.jobs import started

HELLO: Any = [{"role": "user", "content": "Tell me a tale."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/City"}},
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {"City": {"enum": ["Oslo", "Rome"]}},
        },
    },
}
TIME: Any = {
    "type": "function",
    "function": {"name": "time", "parameters": {"type": "object", "maxProperties": 0}},
}


class Animal(BaseModel):
    kind: Literal["fox", "sheep"]
    legs: Literal[3, 4]


class Tale(BaseModel):
    title: str
    heroes: list[Animal]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with bundled_fleet(tmp_path_factory.mktemp("workers")) as running:
        yield running


@pytest.fixture(scope="module")
def sdk(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    with fleet.sdk(tmp_path_factory.mktemp("web")) as opened:
        yield opened


def test_a_pydantic_model_is_parsed(sdk: OpenAI) -> None:
    for seed in range(3):
        answer = sdk.chat.completions.parse(
            model=MODEL, messages=HELLO, response_format=Tale, seed=seed, max_tokens=300
        )
        assert isinstance(answer.choices[0].message.parsed, Tale)


def test_any_json_object(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        response_format={"type": "json_object"},
        seed=4,
        max_tokens=400,
    )
    content = answer.choices[0].message.content or ""
    assert content.startswith("{")
    assert answer.choices[0].finish_reason == "length" or isinstance(json.loads(content), dict)


def test_a_completion_takes_jobs_structured_outputs(sdk: OpenAI) -> None:
    outputs = {"structured_outputs": {"choice": ["a fox", "a sheep"]}}
    answer = sdk.completions.create(model=MODEL, prompt="It was", extra_body=outputs, max_tokens=20)
    assert answer.choices[0].text in ("a fox", "a sheep")


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {"weather", "time"}), ({"type": "function", "function": {"name": "weather"}}, {"weather"})],
)
def test_a_required_call_matches_its_schema(sdk: OpenAI, choice: Any, names: set[str]) -> None:
    tools = [WEATHER, TIME]
    for seed in range(3):
        done = sdk.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=False,
            seed=seed,
            max_tokens=200,
        ).choices[0]
        assert done.finish_reason == "tool_calls"
        [call] = done.message.tool_calls or []
        assert call.type == "function"
        assert call.function.name in names
        if call.function.name == "weather":
            assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")


def test_a_response_is_parsed_as_well(sdk: OpenAI) -> None:
    answer = sdk.responses.parse(
        model=MODEL, input="Tell me a tale.", text_format=Tale, extra_body={"seed": 1}, max_output_tokens=300
    )
    assert isinstance(answer.output_parsed, Tale)


def test_a_response_must_call_a_tool_as_well(sdk: OpenAI) -> None:
    tools: Any = [{"type": "function", **tool["function"]} for tool in (WEATHER, TIME)]
    for seed in range(3):
        answer = sdk.responses.create(
            model=MODEL,
            input="Tell me a tale.",
            tools=tools,
            tool_choice="required",
            parallel_tool_calls=False,
            extra_body={"seed": seed},
            max_output_tokens=200,
        )
        [call] = answer.output
        assert call.type == "function_call"
        if call.name == "weather":
            assert json.loads(call.arguments)["city"] in ("Oslo", "Rome")


def test_a_bad_schema_is_a_400_that_names_it(sdk: OpenAI) -> None:
    bad: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with pytest.raises(BadRequestError) as caught:
        sdk.chat.completions.create(model=MODEL, messages=HELLO, response_format=bad)
    assert caught.value.param == "response_format.json_schema.schema"


def test_a_structured_stream_survives_its_worker(sdk: OpenAI, fleet: Fleet) -> None:
    letters = {"type": "array", "minItems": 40, "items": {"enum": ["a", "b"]}}
    options: dict[str, Any] = {
        "model": MODEL,
        "messages": HELLO,
        "seed": 7,
        "max_tokens": 400,
        "stream": True,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": letters},
        },
    }

    def text(stream: Any) -> str:
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    undisturbed = text(sdk.chat.completions.create(**options))
    answer = sdk.chat.completions.with_raw_response.create(**options)
    job_id = answer.headers["X-Job-ID"]
    first = started(fleet.store, job_id, tokens=5).attempts[0]
    fleet.kill(first.worker)
    assert text(answer.parse()) == undisturbed
    assert len(json.loads(undisturbed)) >= 40
    assert len(fleet.store.get(job_id).attempts) == 2
