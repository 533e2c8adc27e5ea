"""Responses in a form, as OpenAI's own SDK asks for them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from harness.waiting import TIMEOUT_SECONDS
from tests.integration.batch_harness import RESPONSES, create, ended, line, read_lines
from tests.integration.openai_events import assert_as_the_sdk
from tests.integration.openai_harness import Calls, run_async
from tests.integration.web_harness import Run, Server

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.openai_fixtures"]


class Place(BaseModel):
    city: str
    country: str | None


OSLO = ['{"city": "Oslo", ', '"country": null}']
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def structure_of(run: Run) -> Any:
    return run.claim.request.model_dump(exclude_none=True).get("structured_outputs")


def test_a_pydantic_model_is_parsed(sdk_calls: Calls, client: httpx.Client) -> None:
    reply = sdk_calls.call(sdk_calls.sdk.responses.parse, model="m", input="hello", text_format=Place)
    [run] = sdk_calls.start()
    assert structure_of(run)["json"]["required"] == ["city", "country"]
    run.complete(*OSLO)
    answer = reply.result(TIMEOUT_SECONDS)
    assert answer.output_parsed == Place(city="Oslo", country=None)
    raw = client.get(f"/v1/responses/{answer.id}").json()
    assert_as_the_sdk(raw)
    assert raw["text"]["format"] == {
        "type": "json_schema",
        "name": "Place",
        "description": None,
        "schema": structure_of(run)["json"],
        "strict": True,
    }


def test_a_pydantic_model_is_parsed_in_a_stream(sdk_calls: Calls) -> None:
    def read() -> tuple[list[Any], Any]:
        with sdk_calls.sdk.responses.stream(model="m", input="hello", text_format=Place) as stream:
            return list(stream), stream.get_final_response()

    reply = sdk_calls.call(read)
    [run] = sdk_calls.start()
    run.complete(*OSLO)
    events, final = reply.result(TIMEOUT_SECONDS)
    assert final.output_parsed == Place(city="Oslo", country=None)
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == OSLO
    [done] = [event for event in events if event.type == "response.output_text.done"]
    assert done.parsed == final.output_parsed


def test_the_asynchronous_client_parses_as_well(sdk_calls: Calls, server: Server) -> None:
    async def drive() -> list[Any]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as sdk:
            reply = asyncio.create_task(sdk.responses.parse(model="m", input="hello", text_format=Place))
            [run] = await asyncio.to_thread(sdk_calls.start)
            run.complete(*OSLO)
            parsed = (await reply).output_parsed
            async with sdk.responses.stream(
                model="m", input="hello", text_format=Place, background=True
            ) as stream:
                [run] = await asyncio.to_thread(sdk_calls.start)
                run.complete(*OSLO)
                return [parsed, (await stream.get_final_response()).output_parsed]

    assert run_async(drive()) == [Place(city="Oslo", country=None)] * 2


@pytest.mark.parametrize(
    ("form", "structure"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"json": {"type": "object"}}),
        (
            {"type": "json_schema", "name": "x", "schema": SCHEMA, "description": "a place", "strict": False},
            {"json": SCHEMA},
        ),
    ],
)
def test_each_form_restricts_the_job_and_comes_back(
    sdk_calls: Calls, client: httpx.Client, form: Any, structure: Any
) -> None:
    answer = sdk_calls.sdk.responses.create(model="m", input="hello", text={"format": form}, background=True)
    [run] = sdk_calls.start()
    assert structure_of(run) == structure
    raw = client.get(f"/v1/responses/{answer.id}").json()
    assert_as_the_sdk(raw)
    assert raw["text"] == {"format": form}


def test_lines_of_a_batch_may_ask_for_forms_and_tools(sdk_calls: Calls) -> None:
    tool = {"type": "function", "name": "weather"}
    result = [
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "rain"},
    ]
    form = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    lines = [
        line("form", RESPONSES, input="hello", text=form),
        line("call", RESPONSES, input="hello", tools=[tool]),
        line("result", RESPONSES, input=result, tools=[tool]),
    ]
    made = create(sdk_calls.sdk, lines, RESPONSES)
    for run in sdk_calls.start(3):
        is_call = run.claim.request.tools and len(run.claim.request.messages or ()) == 1
        run.complete('[TOOL_CALLS][{"name": "weather"}]' if is_call else '{"city": "Oslo"}')
    done = ended(sdk_calls.sdk, made.id)
    answers = {
        each["custom_id"]: each["response"]["body"] for each in read_lines(sdk_calls.sdk, done.output_file_id)
    }
    for body in answers.values():
        assert_as_the_sdk(body)
    assert {name: body["output"][0]["type"] for name, body in answers.items()} == {
        "form": "message",
        "call": "function_call",
        "result": "message",
    }
    assert answers["form"]["text"]["format"]["schema"] == SCHEMA
    bad = create(sdk_calls.sdk, [line("bad", RESPONSES, input="hello", tools=[{"type": "mcp"}])], RESPONSES)
    errors = ended(sdk_calls.sdk, bad.id).errors
    assert [error.param for error in (errors and errors.data) or ()] == ["body.tools.0.type"]
