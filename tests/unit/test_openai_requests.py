"""Bodies of OpenAI's SDK become jobs that a worker can read, or errors that name a field of the body."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import BatchCreateParams, CompletionCreateParams
from openai.types.chat import CompletionCreateParams as ChatCreateParams
from openai.types.responses import ResponseCreateParams
from openai.types.shared import ErrorObject

import web
from tasks.errors import JobNotFoundError, TokenrelayError
from tasks.request import JobRequest
from tasks.settings import Settings
from tasks.submission import accepted
from tests.unit import openai_honoured
from tests.unit.openai_bodies import bodies, broken
from tests.unit.openai_honoured import Strategies, honoured
from web import calls
from web.services import services

SETTINGS = Settings(redis_url="redis://nobody", model_id="m")
HELLO = [{"role": "user", "content": "hello"}]

ROUTES = pytest.mark.parametrize(
    ("path", "sdk", "fields"),
    [
        ("/v1/completions", CompletionCreateParams, openai_honoured.COMPLETION),
        ("/v1/chat/completions", ChatCreateParams, openai_honoured.CHAT),
        ("/v1/responses", ResponseCreateParams, openai_honoured.RESPONSE),
        ("/v1/batches", BatchCreateParams, openai_honoured.BATCH),
    ],
)


class AcceptedError(TokenrelayError):
    """The request is accepted."""

    status, code = 202, "accepted"


class Posts:
    """Posts bodies to an app without Redis, which answers 202 instead of storing their jobs."""

    def __init__(self) -> None:
        self.requests: list[JobRequest] = []
        app = web.create_app(SETTINGS)
        self._client: FlaskClient = app.test_client()
        with app.app_context():
            self.services = services()

    def submit(self, requests: list[JobRequest], *_: object) -> None:
        self.requests = requests
        raise AcceptedError

    def create_batch(self, *_: object) -> None:
        raise AcceptedError

    def find_no_job(self, *_: object) -> None:
        raise JobNotFoundError

    def error(self, path: str, body: Any) -> ErrorObject | None:
        """Returns the refusal of a body; None if it was accepted."""
        self.requests = []
        text = body if isinstance(body, str) else json.dumps(body)
        answer = self._client.post(path, data=text, content_type="application/json")
        error = ErrorObject.model_validate(answer.get_json()["error"], strict=True)
        if error.code == "accepted":
            return None
        assert 400 <= answer.status_code < 500, error
        return error


@pytest.fixture(scope="module")
def posts() -> Iterator[Posts]:
    made = Posts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "submit", made.submit)
        patch.setattr(made.services.store, "get", made.find_no_job)
        patch.setattr(made.services.batches, "create", made.create_batch)
        # Each new grammar takes 0.1 s. `test_structured_outputs.py` compiles some.
        patch.setattr("tasks.request.check_grammar", lambda _: None)
        yield made


def check(posts: Posts, path: str, body: dict[str, Any]) -> None:
    """Asserts that a worker can read the jobs of a body, or that its refusal names a field of the body."""
    error = posts.error(path, body)
    if error is None:
        for request in posts.requests:
            stored = json.dumps(accepted(request, SETTINGS))
            assert JobRequest.model_validate_json(stored).model_dump(exclude_none=True) == json.loads(stored)
        return
    assert error.param is not None, error
    is_missing = f"{error.param}: is required" in error.message
    assert is_in(body, error.param.rpartition(".")[0] if is_missing else error.param), error


def is_in(part: Any, path: str) -> bool:
    """Whether a path like `messages.0.role` leads to a part of a body. Long names are cut off in paths."""
    if not path:
        return True
    named = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, inner in named:
        name = str(key)[:80] or '""'
        if path == name or (path.startswith(f"{name}.") and is_in(inner, path[len(name) + 1 :])):
            return True
    return False


@ROUTES
@settings(deadline=None)
@given(data=st.data())
def test_bodies_of_the_sdks_types(
    posts: Posts, path: str, sdk: Any, fields: Strategies, data: st.DataObject
) -> None:
    assert fields
    check(posts, path, data.draw(bodies(sdk) | broken(bodies(sdk))))


@ROUTES
@settings(deadline=None)
@given(data=st.data())
def test_broken_bodies(posts: Posts, path: str, sdk: Any, fields: Strategies, data: st.DataObject) -> None:
    assert sdk
    check(posts, path, data.draw(broken(honoured(fields))))


@ROUTES
@settings(deadline=None)
@given(data=st.data())
def test_what_is_honoured_is_accepted(
    posts: Posts, path: str, sdk: Any, fields: Strategies, data: st.DataObject
) -> None:
    assert sdk
    body = data.draw(honoured(fields))
    assert posts.error(path, body) is None
    check(posts, path, body)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def with_tool(parameters: Any, **options: Any) -> dict[str, Any]:
    function = {"name": "f", "parameters": parameters}
    return {"messages": HELLO, "tools": [{"type": "function", "function": function}], **options}


TOOL: dict[str, Any] = with_tool({})
ANY_OBJECT = {"type": "json_object"}
LETTER_A = {"regex": "a"}
SIXTEEN = {str(number): "v" for number in range(16)}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (with_tool(nested(100)), "tools.0.function.parameters"),
        (with_tool({"maximum": float("inf")}), "tools.0.function.parameters"),
        ({"messages": HELLO, "metadata": SIXTEEN, "user": "u"}, "metadata"),
        (
            {"messages": HELLO, "structured_outputs": LETTER_A, "response_format": ANY_OBJECT},
            "response_format",
        ),
        ({**TOOL, "tool_choice": "required", "structured_outputs": LETTER_A}, "tool_choice"),
        ({**TOOL, "tool_choice": "required", "response_format": ANY_OBJECT}, "response_format"),
        ({"messages": HELLO, "stop": ""}, "stop"),
        ({"messages": HELLO, "stop": ["a", ""]}, "stop.1"),
        ({"messages": HELLO, "": 1}, '""'),
        ({"messages": HELLO, "[string]": 1}, "[string]"),
    ],
)
def test_refused_chats(posts: Posts, body: dict[str, Any], param: str) -> None:
    text = json.dumps(body).replace("Infinity", "1e999")  # A number that JSON allows and a float cannot hold.
    error = posts.error("/v1/chat/completions", text)
    assert error is not None
    assert error.param == param


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ("", "prompt"),
        ([1, -1], "prompt.1"),
        ([[1], [-1]], "prompt.1.0"),
        (["a", ""], "prompt.1"),
        ([], "prompt"),
    ],
)
def test_refused_prompts(posts: Posts, prompt: Any, param: str) -> None:
    error = posts.error("/v1/completions", {"prompt": prompt})
    assert error is not None
    assert error.param == param


@pytest.mark.parametrize(
    "body",
    [
        with_tool(nested(99)),
        with_tool({"$defs": 5}, tool_choice="required"),
        with_tool({"$defs": ["a"]}, tool_choice="required"),
        {"messages": HELLO, "metadata": {**dict(list(SIXTEEN.items())[1:]), "user": "v"}, "user": "u"},
        {**TOOL, "tool_choice": "none", "response_format": ANY_OBJECT},
    ],
)
def test_accepted_chats(posts: Posts, body: dict[str, Any]) -> None:
    assert posts.error("/v1/chat/completions", body) is None
    check(posts, "/v1/chat/completions", body)
