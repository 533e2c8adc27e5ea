"""The submit body: which values are refused, the field that the refusal names, and the defaults."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.errors import InvalidRequestError
from tasks.request import MAX_SEED, JobRequest, parse_request


def refused_fields(**body: Any) -> list[str]:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(body)
    return [error.field for error in caught.value.errors]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["prompt"]),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, ["prompt"]),
        ({"prompt": "a", "tools": [{"type": "function", "function": {"name": "f"}}]}, ["tools"]),
        ({"prompt": "a", "prompt_token_ids": [1]}, ["prompt"]),
        ({"prompt_token_ids": []}, ["prompt_token_ids"]),
        ({"prompt_token_ids": [1, -1]}, ["prompt_token_ids.1"]),
        ({"prompt_token_ids": "12"}, ["prompt_token_ids"]),
        ({"prompt": ""}, ["prompt"]),
        ({"prompt": 5}, ["prompt"]),
        ({"prompt": "half a pair \ud83d"}, ["prompt"]),
        ({"messages": []}, ["messages"]),
        ({"messages": [{"role": "user"}]}, ["messages.0.content"]),
        ({"messages": [{"role": "wizard", "content": "a"}]}, ["messages.0.role"]),
        ({"messages": [{"role": "", "content": "a"}]}, ["messages.0.role"]),
        ({"messages": [{"role": "User", "content": "a"}]}, ["messages.0.role"]),
        ({"messages": [{"role": 5, "content": "a"}]}, ["messages.0.role"]),
        ({"messages": [{"role": "user", "content": 5}]}, ["messages.0.content"]),
        ({"messages": [{"role": "user", "content": None}]}, ["messages.0.content"]),
        ({"messages": [{"role": "user", "content": {}}]}, ["messages.0.content"]),
        ({"messages": [{"role": "user", "content": []}]}, ["messages.0.content"]),
        ({"messages": [{"role": "user", "content": ["a"]}]}, ["messages.0.content.0"]),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, ["messages.0.content.0.text"]),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "a"}]}]},
            ["messages.0.content.0.type"],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]},
            ["messages.0.content.0.x"],
        ),
        ({"messages": [{"role": "user", "content": "half \ud83d"}]}, ["messages.0.content"]),
        ({"prompt": "a", "bogus": 1, "max_tokens": 0}, ["max_tokens", "bogus"]),
        ({"prompt": "a", "max_tokens": "5"}, ["max_tokens"]),
        ({"prompt": "a", "max_tokens": 5.0}, ["max_tokens"]),
        ({"prompt": "a", "max_tokens": True}, ["max_tokens"]),
        ({"prompt": "a", "temperature": 2.1}, ["temperature"]),
        ({"prompt": "a", "temperature": float("nan")}, ["temperature"]),
        ({"prompt": "a", "top_p": 0}, ["top_p"]),
        ({"prompt": "a", "top_k": -1}, ["top_k"]),
        ({"prompt": "a", "min_p": 1.1}, ["min_p"]),
        ({"prompt": "a", "engine": "llama"}, ["engine"]),
        ({"prompt": "a", "repetition_penalty": 0}, ["repetition_penalty"]),
        ({"prompt": "a", "repetition_penalty": 2.1}, ["repetition_penalty"]),
        ({"prompt": "a", "repetition_penalty": 5e-324}, ["repetition_penalty"]),
        ({"prompt": "a", "repetition_penalty": 1e-40}, ["repetition_penalty"]),
        ({"prompt": "a", "presence_penalty": -2.1}, ["presence_penalty"]),
        ({"prompt": "a", "frequency_penalty": 2.1}, ["frequency_penalty"]),
        ({"prompt": "a", "logprobs": 6}, ["logprobs"]),
        ({"prompt": "a", "logprobs": True}, ["logprobs"]),
        ({"prompt": "a", "seed": MAX_SEED + 1}, ["seed"]),
        ({"prompt": "a", "n": 9}, ["n"]),
        ({"prompt": "a", "stop": ["a"] * 5}, ["stop"]),
        ({"prompt": "a", "stop": ["ok", ""]}, ["stop.1"]),
        ({"prompt": "a", "stop": "x" * 65}, ["stop"]),
        ({"prompt": "a", "stop": ["x" * 65]}, ["stop.0"]),
        ({"prompt": "a", "ignore_eos": "yes"}, ["ignore_eos"]),
        ({"prompt": "a", "priority": "urgent"}, ["priority"]),
        ({"prompt": "a", "expires_in": 0}, ["expires_in"]),
        ({"prompt": "a", "timeout": -1}, ["timeout"]),
        ({"prompt": "a", "metadata": {"k": 1}}, ["metadata.k"]),
        ({"prompt": "a", "metadata": {"k" * 65: "v"}}, ["metadata." + "k" * 65]),
        ({"prompt": "a", "metadata": {"k": "v" * 513}}, ["metadata.k"]),
        ({"prompt": "a", "metadata": {str(i): "v" for i in range(17)}}, ["metadata"]),
    ],
)
def test_refused(body: dict[str, Any], fields: list[str]) -> None:
    assert refused_fields(**body) == fields


def test_a_body_that_is_no_object_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"^the body must be a JSON object$"):
        parse_request(["prompt"])


MISSPELT = "metadata.a: must be a string; temprature: there is no such field; did you mean temperature?"
MANY = "; ".join(f"{name}: there is no such field" for name in ["max_token", *"abcdefgh"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": "a", "maxtokens": 5}, "maxtokens: there is no such field; did you mean max_tokens?"),
        ({"prompt": "a", "min_tokens": 5}, "min_tokens: there is no such field"),
        ({"prompt": "a", "metadata": {"a": 1}, "temprature": 5}, MISSPELT),
        ({"prompt": "a", **dict.fromkeys(["max_token", *"abcdefgh"], 1)}, MANY),
        ({"messages": [{"role": "user"}]}, "messages.0.content: is required"),
        ({"messages": ["a"]}, "messages.0: must be a JSON object"),
        ({"prompt": "a", "metadata": "b"}, "metadata: must be a JSON object"),
        ({"prompt": "\ud800"}, "prompt: must be text without halves of surrogate pairs"),
        ({"prompt": "a", "stop": ["b"] * 5}, "stop: must have at most 4 items, not 5"),
    ],
)
def test_messages_are_in_words_of_json(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        parse_request(body)
    assert refusal.value.detail == message


@pytest.mark.parametrize(
    "option",
    [
        {"webhook": {"url": "https://example.com/"}},
    ],
)
def test_options_that_are_not_implemented_are_refused_by_name(option: dict[str, Any]) -> None:
    assert refused_fields(prompt="a", **option) == [*option]


def test_neutral_values_of_options_that_are_not_implemented_are_accepted() -> None:
    parse_request({"prompt": "a", "webhook": None})


def test_defaults() -> None:
    request = parse_request({"prompt": "a", "stop": "END", "temperature": 0})
    assert (request.max_tokens, request.top_p, request.top_k, request.n) == (64, 1, 0, 1)
    assert (request.stop, request.temperature, request.priority) == (["END"], 0, "normal")


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_roles(role: str) -> None:
    request = parse_request({"messages": [{"role": role, "content": "a"}]})
    assert [message.role for message in request.messages or ()] == [role]


def test_content_is_a_string_or_text_parts() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "fox"}]
    body = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": ""}]}
    request = parse_request(body)
    assert [message.text for message in request.messages or ()] == ["a fox", ""]
    stored = request.model_dump(exclude_none=True)
    assert stored["messages"] == body["messages"], "messages are stored as they were sent"
    assert JobRequest.model_validate_json(request.model_dump_json()) == request


def test_the_message_says_what_content_may_be() -> None:
    with pytest.raises(InvalidRequestError, match="content: must be a string or a list of text parts"):
        parse_request({"messages": [{"role": "user", "content": 5}]})
    with pytest.raises(InvalidRequestError, match="role: must be 'system', 'developer', 'user',"):
        parse_request({"messages": [{"role": "wizard", "content": "a"}]})
