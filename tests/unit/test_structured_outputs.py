"""The field `structured_outputs`: what is refused at submit, and the words of the refusal."""

from __future__ import annotations

from typing import Any

import pytest

from tasks import grammar_check
from tasks.errors import InvalidRequestError
from tasks.request import JobRequest, parse_request, version_of
from tasks.structured_outputs import MAX_GRAMMAR_CHARACTERS, MAX_REGEX_CHARACTERS

NESTED: dict[str, Any] = {}
for _ in range(101):
    NESTED = {"items": NESTED}


def refusal(outputs: Any) -> tuple[str, str]:
    with pytest.raises(InvalidRequestError) as caught:
        parse_request({"prompt": "a", "structured_outputs": outputs})
    [error] = caught.value.errors
    return error.field.removeprefix("structured_outputs"), error.message


@pytest.mark.parametrize(
    ("outputs", "field", "message"),
    [
        ({}, "", "must have exactly one of json, regex, choice, grammar"),
        ({"json": {}, "regex": "a"}, "", "must have exactly one of json, regex, choice, grammar"),
        (5, "", "must be a JSON object"),
        ({"yaml": "a"}, ".yaml", "there is no such field"),
        ({"json": None}, ".json", "must be a JSON schema: an object, or a string that holds one"),
        ({"json": "[]"}, ".json", "must be a JSON schema: an object, or a string that holds one"),
        ({"json": "{"}, ".json", "is not valid JSON: Expecting property name enclosed in double quotes"),
        ({"json": '{"const": NaN}'}, ".json", "is not valid JSON: NaN is not JSON"),
        ({"json": {"const": float("inf")}}, ".json", "Out of range float values are not JSON compliant"),
        ({"json": NESTED}, ".json", "must not be nested more than 100 levels deep"),
        ({"json": {"const": "a" * MAX_GRAMMAR_CHARACTERS}}, ".json", "must have at most 65536 characters"),
        ({"json": {"const": "\ud83d"}}, ".json", "must be text without halves of surrogate pairs"),
        ({"regex": ""}, ".regex", "must have at least 1 character"),
        ({"regex": "a" * (MAX_REGEX_CHARACTERS + 1)}, ".regex", "must have at most 4096 characters"),
        ({"choice": []}, ".choice", "must have at least 1 item"),
        ({"choice": "yes"}, ".choice", "must be a list"),
        ({"choice": ["yes", ""]}, ".choice.1", "must have at least 1 character"),
        ({"choice": ["a" * 40_000, "b" * 40_000]}, ".choice", "must have at most 65536 characters in all"),
        ({"grammar": 5}, ".grammar", "must be a string"),
    ],
)
def test_a_wrong_shape_is_named(outputs: Any, field: str, message: str) -> None:
    found = refusal(outputs)
    assert found[0] == field
    assert found[1].startswith(message)


@pytest.mark.parametrize(
    ("outputs", "field", "message"),
    [
        ({"json": {"type": "objekt"}}, ".json", "Invalid type: objekt"),
        ({"json": {"not": {"type": "string"}}}, ".json", 'Unimplemented keys: ["not"]'),
        ({"json": {"minimum": 5, "maximum": 3, "type": "integer"}}, ".json", "Unsatisfiable schema: minimum"),
        ({"json": {"$ref": "#/$defs/x"}}, ".json", "Pointer '/$defs/x' does not exist"),
        (
            {"json": {"type": "string", "pattern": "("}},
            ".json",
            "invalid regular expression: unclosed group",
        ),
        ({"regex": "(a"}, ".regex", "invalid regular expression: unclosed group"),
        ({"regex": "(?=a)b"}, ".regex", "invalid regular expression: look-around"),
        ({"grammar": "start: word"}, ".grammar", 'at 1(8): unknown name: "word"'),
        ({"grammar": "start: start"}, ".grammar", "accepts no output"),
        ({"json": {"type": "integer", "multipleOf": 9_999_991}}, ".json", "takes longer than 2 s to compile"),
        (
            {"grammar": "start: " + "".join(f"r{i}\nr{i}: " for i in range(4800)) + '"a"'},
            ".grammar",
            "is too complex to be compiled",
        ),
    ],
)
def test_a_grammar_that_cannot_be_compiled_is_refused_with_its_reason(
    outputs: Any, field: str, message: str
) -> None:
    """The last one overflows the stack, which ends the process that compiles it."""
    found = refusal(outputs)
    assert found[0] == field
    assert found[1].startswith(message)
    assert "\n" not in found[1]


@pytest.mark.parametrize(
    "outputs",
    [
        {"json": {"const": None, "default": None, "enum": [None, {"a": None}]}},
        {"json": '{"type": "object"}'},
        {"regex": "^[a-z]+/é$"},
        {"choice": ["a\n\0", '"', "\U0001f600"]},
        {"grammar": 'start: "a" | /b+/'},
        {"grammar": 'start: "a" <|im_end|>'},  # Only a worker knows its model's special tokens.
    ],
)
def test_a_right_one_is_stored_as_it_came(outputs: Any) -> None:
    request = parse_request({"prompt": "a", "structured_outputs": outputs})
    stored = request.model_dump(mode="json", exclude_none=True)
    assert stored["structured_outputs"] == outputs
    assert version_of(stored) == 2
    assert JobRequest.model_validate_json(request.model_dump_json()).structured_outputs == outputs


def test_other_requests_keep_the_first_record_version() -> None:
    assert version_of(parse_request({"prompt": "a"}).model_dump(mode="json", exclude_none=True)) == 1


def test_without_the_library_the_worker_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_check, "LIBRARY", "no_such_library")
    parse_request({"prompt": "a", "structured_outputs": {"regex": "(a"}})


def test_a_verdict_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {"regex": "a known grammar"}
    parse_request({"prompt": "a", "structured_outputs": outputs})
    monkeypatch.setattr("sys.executable", "/no/such/program")
    parse_request({"prompt": "b", "structured_outputs": outputs})
    with pytest.raises(FileNotFoundError):
        parse_request({"prompt": "b", "structured_outputs": {"regex": "an unknown one"}})
