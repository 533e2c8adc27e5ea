"""Reads the body of a request as strict JSON."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, NoReturn, TypeVar

from flask import request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from tasks.errors import InvalidRequestError, MalformedRequestError
from tasks.validation import field_errors, require_object
from web.endpoints import BAD_FIELD, Input
from web.errors import UnsupportedMediaTypeError

MAX_BODY_BYTES = 1024 * 1024

BODY_REFUSALS = {
    400: "not JSON",
    408: "the body did not arrive in time",
    413: "over 1 MiB",
    415: "not application/json",
    **BAD_FIELD,
}

Model = TypeVar("Model", bound=BaseModel)


def from_body(model: type[BaseModel]) -> Input:
    """Returns an input that validates the request's JSON with a model."""
    return Input(partial(_parse, model), body=model, refusals=BODY_REFUSALS)


def _parse(model: type[Model]) -> Model:
    return validated(model, read_json())


def validated(model: type[Model], body: Any) -> Model:
    """Returns a decoded body, validated with a model. Raises InvalidRequestError."""
    require_object(body)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise InvalidRequestError(field_errors(error, model.model_fields)) from None


def read_json() -> Any:
    """Returns the decoded body.

    Raises UnsupportedMediaTypeError, MalformedRequestError (not UTF-8, not JSON, NaN or Infinity, a duplicate
    key, half a surrogate pair) and werkzeug's RequestEntityTooLarge.
    """
    if request.mimetype != "application/json":
        raise UnsupportedMediaTypeError
    return decode_json(_read(), "the body")


def decode_json(data: bytes, what: str) -> Any:
    """Returns decoded JSON. what: names the text in errors. Raises MalformedRequestError, as `read_json`."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise MalformedRequestError(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        body = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        _refuse_half_surrogate_pairs(text, body, what)
    except RecursionError:
        raise MalformedRequestError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise MalformedRequestError(f"{what} is not valid JSON: {error}") from None
    return body


def _read() -> bytes:
    # Werkzeug silently cuts a chunked body off at its limit, so the limit given to it is one byte larger.
    request.max_content_length = MAX_BODY_BYTES + 1
    too_large = RequestEntityTooLarge(f"the body is longer than {MAX_BODY_BYTES} bytes")
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise too_large from None
    if len(body) > MAX_BODY_BYTES:
        raise too_large
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("duplicate key in a JSON object")
    return fields


def _refuse_half_surrogate_pairs(text: str, body: Any, what: str) -> None:
    """Raises MalformedRequestError for `"\\ud83d"` alone: valid JSON, but no text that could be stored."""
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise MalformedRequestError(f"{what} holds half of a surrogate pair") from None
