"""The tables of docs/openai.md and docs/openai-comparison.md agree with the code and with OpenAI's SDK.

`tests/engine/test_vllm_server.py` compares vLLM's column with vLLM.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import pytest
from openai.resources import batches, completions, files, models
from openai.resources.chat.completions import completions as chats
from openai.resources.chat.completions import messages
from openai.resources.responses import input_items, input_tokens, responses
from openai.types import BatchCreateParams, CompletionCreateParams, FileCreateParams
from openai.types.chat import CompletionCreateParams as ChatCreateParams
from openai.types.responses import ResponseCreateParams
from openai.types.shared import ErrorObject
from pydantic import BaseModel, ValidationError

import web
from tasks.settings import Settings
from tests.openai_tables import compared, honoured
from tests.unit import openai_honoured
from tests.unit.openai_bodies import fields_of
from tests.unit.openai_honoured import Strategies
from web.openai.batches.bodies import BatchParameters
from web.openai.chat_parameters import ChatParameters
from web.openai.parameters import CompletionParameters
from web.openai.responses.parameters import ResponseParameters
from web.openai.uploads import UploadForm

SETTINGS = Settings(redis_url="redis://nobody")
HELLO = [{"role": "user", "content": "hello"}]


class Route(NamedTuple):
    """A route's body. sdk: its types in the SDK. task: the required fields. tested: those that are fuzzed."""

    heading: str
    model: type[BaseModel]
    sdk: Any
    honoured: Mapping[str, str]
    task: dict[str, Any]
    tested: Strategies


COMPLETIONS = Route(
    "Fields of completions",
    CompletionParameters,
    CompletionCreateParams,
    honoured("Fields", columns=3, place=1),
    {"prompt": "x"},
    openai_honoured.COMPLETION,
)
CHATS = Route(
    "Fields of chat completions",
    ChatParameters,
    ChatCreateParams,
    honoured("Fields", columns=3, place=2),
    {"messages": HELLO},
    openai_honoured.CHAT,
)
RESPONSES = Route(
    "Fields of responses",
    ResponseParameters,
    ResponseCreateParams,
    honoured("Fields of responses", columns=2, place=1),
    {"input": "x"},
    openai_honoured.RESPONSE,
)
ROUTES = pytest.mark.parametrize("route", [COMPLETIONS, CHATS, RESPONSES], ids=lambda route: route.heading)


def sdk_fields(sdk: Any) -> set[str]:
    """Returns the names of the fields of a typed dict, or of all typed dicts of a union."""
    return {name for body in get_args(sdk) or [sdk] for name in fields_of(body)}


@ROUTES
def test_the_comparison_has_each_field(route: Route) -> None:
    known = sdk_fields(route.sdk)
    fields = compared(route.heading)
    missing = (known | route.model.model_fields.keys()) - fields.keys()
    assert not missing, f"not in docs/openai-comparison.md, {route.heading}: {missing}"
    assert {name for name, said in fields.items() if said.openai == "yes"} == known


@ROUTES
def test_the_comparison_calls_honoured_what_is_honoured(route: Route) -> None:
    for field, said in compared(route.heading).items():
        meaning = route.honoured.get(field)
        expected = "refused" if meaning is None else "partly" if meaning.startswith("only") else "yes"
        assert said.tokenrelay == expected, f"docs/openai.md and docs/openai-comparison.md differ: {field}"
    assert route.honoured.keys() <= compared(route.heading).keys()


@ROUTES
def test_what_is_called_refused_is_refused_by_name(route: Route) -> None:
    refused = [name for name, said in compared(route.heading).items() if said.tokenrelay == "refused"]
    assert refused
    for field in refused:
        known = {field: None} if field in route.model.model_fields else {}
        assert route.model.model_validate({**route.task, **known}), "null counts as absent"
        with pytest.raises(ValidationError) as caught:
            route.model.model_validate({**route.task, field: "anything"})
        assert caught.value.errors()[0]["loc"] == (field,)


@ROUTES
def test_a_field_that_is_honoured_says_nothing_else(route: Route) -> None:
    for field, meaning in route.honoured.items():
        is_refused = (route.model.model_fields[field].description or "").startswith("not supported")
        assert is_refused <= meaning.startswith("only"), field


@ROUTES
def test_each_honoured_field_is_fuzzed(route: Route) -> None:
    """`test_what_is_honoured_is_accepted` is only true of the fields that it generates."""
    whole = {name for name, meaning in route.honoured.items() if not meaning.startswith("only")}
    others = {"include"} if route is RESPONSES else set()
    whole -= {"previous_response_id"}  # It needs an earlier response.
    assert route.tested.keys() - others == whole, "tests/unit/openai_honoured.py has other fields"


def test_the_fields_of_files_and_batches() -> None:
    known = {**fields_of(BatchCreateParams), **fields_of(FileCreateParams)}
    ours = {**BatchParameters.model_fields, **UploadForm.model_fields}
    fields = compared("Fields of files and batches")
    assert fields.keys() == known.keys() == ours.keys()
    for name, said in fields.items():
        values = set(get_args(ours[name].annotation))
        is_narrower = name in ("endpoint", "purpose")
        assert said == ("yes", "", "partly" if is_narrower else "yes")
        if is_narrower:
            assert values < literals(known[name])


def literals(kind: Any) -> set[Any]:
    """Returns the values that a type of the SDK allows, which is a literal inside of others."""
    inner = get_args(kind)
    return {value for one in inner for value in ([one] if isinstance(one, str) else literals(one))}


def test_the_routes() -> None:
    said = compared("Routes")
    assert {route for route, columns in said.items() if columns.openai == "yes"} == sdk_routes()
    assert {route for route, columns in said.items() if columns.tokenrelay == "yes"} == own_routes()


def test_a_route_that_is_not_there_is_an_error_in_openais_shape() -> None:
    client = web.create_app(SETTINGS).test_client()
    for route in [route for route, said in compared("Routes").items() if not said.tokenrelay]:
        method, _, path = route.partition(" ")
        answer = client.open(path, method=method)
        assert answer.status_code in (404, 405), route
        assert ErrorObject.model_validate(answer.get_json()["error"], strict=True)


def sdk_routes() -> set[str]:
    """Returns the routes that the SDK calls, such as `GET /v1/models/ID`."""
    resources = (batches, completions, files, models, chats, messages, responses, input_items, input_tokens)
    calls = r'self\._(get|post|delete|get_api_list)\(\s*(?:path_template\(\s*)?"(/[^"]*)"'
    return {
        f"{verb.removesuffix('_api_list').upper()} /v1{re.sub(r'{[a-z_]+}', 'ID', path)}"
        for resource in resources
        for verb, path in re.findall(calls, inspect.getsource(resource))
    }


def own_routes() -> set[str]:
    families = r"/v1/(models|completions|chat|responses|files|batches)\b"
    return {
        f"{method} {re.sub('<(?:[a-z]+:)?[a-z_]+>', 'ID', rule.rule)}"
        for rule in web.create_app(SETTINGS).url_map.iter_rules()
        if re.match(families, rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
