"""The lines of batches: those of an input file, parsed and checked, and those that answer them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.batch import BatchError
from tasks.errors import InvalidRequestError, MalformedRequestError
from tasks.job import Origin
from tasks.request import JobRequest
from web.json_body import MAX_BODY_BYTES, decode_json
from web.openai.batches.endpoints import jobs_of
from web.render import to_json

MAX_LINE_BYTES = MAX_BODY_BYTES + 4096
"""A body may be as long as that of a request. The rest is for the fields around it."""

MAX_LINES = 50_000
"""OpenAI's limit for the lines of a batch."""

CUSTOM_ID_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line of an input file. number: counted from 1. data: without its line end; None if it is too long."""

    number: int
    start: int
    end: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Line:
    """A line that has passed all checks."""

    custom_id: str
    requests: list[JobRequest]
    origin: Origin

    @property
    def model(self) -> str | None:
        return self.requests[0].model


class LineError(Exception):
    """A line that cannot be run. custom_id: empty if it has none."""

    def __init__(self, error: BatchError, custom_id: str = "") -> None:
        super().__init__(error.message)
        self.error = error
        self.custom_id = custom_id


def split_lines(pieces: Iterable[bytes], at: int = 0, number: int = 0) -> Iterator[RawLine]:
    """Yields the lines of an input file. at, number: bytes and lines before the first piece.

    It never holds more than a piece and MAX_LINE_BYTES. The last line needs no line end.
    """
    rest, is_too_long = bytearray(), False
    start = end = at
    for piece in pieces:
        for part in _at_newlines(piece):
            end += len(part)
            if len(rest) + len(part) <= MAX_LINE_BYTES:
                rest += part
            else:
                is_too_long = True
            if part.endswith(b"\n"):
                number += 1
                yield RawLine(number, start, end, None if is_too_long else bytes(rest).strip())
                rest, is_too_long, start = bytearray(), False, end
    if end > start:
        yield RawLine(number + 1, start, end, None if is_too_long else bytes(rest).strip())


def _at_newlines(piece: bytes) -> list[bytes]:
    """Returns the parts of a piece. Only a newline ends a line, and a carriage return does not."""
    parts = piece.split(b"\n")
    whole = [part + b"\n" for part in parts[:-1]]
    return [*whole, parts[-1]] if parts[-1] else whole


def parse_line(line: RawLine, endpoint: str) -> Line:
    """Returns a line, parsed. Raises LineError."""

    def wrong(code: str, message: str, param: str | None = None) -> LineError:
        return LineError(BatchError(code, message, line.number, param), known_id)

    known_id = ""
    if line.data is None:
        raise wrong("line_too_long", f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        fields = decode_json(line.data, "the line")
    except MalformedRequestError as error:
        raise wrong("invalid_json_line", error.detail) from None
    if not isinstance(fields, dict):
        raise wrong("invalid_json_line", "the line is not a JSON object")
    custom_id = fields.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= CUSTOM_ID_CHARACTERS:
        message = f"custom_id must be a string of 1 to {CUSTOM_ID_CHARACTERS} characters"
        raise wrong(
            "missing_required_parameter" if custom_id is None else "invalid_value", message, "custom_id"
        )
    known_id = custom_id
    if fields.get("method") != "POST":
        raise wrong("invalid_method", "method must be POST", "method")
    if fields.get("url") != endpoint:
        raise wrong("mismatched_url", f"url must be {endpoint}, the endpoint of the batch", "url")
    unknown = fields.keys() - {"custom_id", "method", "url", "body"}
    if unknown:
        raise wrong("unknown_parameter", "there is no such field", min(unknown))
    try:
        requests, origin = jobs_of(endpoint, fields.get("body"))
    except InvalidRequestError as error:
        field = error.errors[0].field
        raise wrong("invalid_request", error.detail, f"body.{field}" if field else "body") from None
    return Line(custom_id, requests, origin)


def custom_id_of(line: RawLine) -> str:
    """Returns the custom_id of a line that is not going to be run; empty if it has none."""
    try:
        fields = decode_json(line.data or b"", "the line")
    except MalformedRequestError:
        return ""
    custom_id = fields.get("custom_id") if isinstance(fields, dict) else None
    return custom_id if isinstance(custom_id, str) else ""


def answered(
    batch_id: str, number: int, custom_id: str, status: int, request_id: str, body: Mapping[str, Any]
) -> str:
    """Returns a line for what the route answered. request_id: the id of the first job."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _answer(batch_id, number, custom_id, response, None)


def not_answered(batch_id: str, number: int, custom_id: str, code: str, message: str) -> str:
    """Returns a line for a request that the route never answered."""
    return _answer(batch_id, number, custom_id, None, {"code": code, "message": message})


def _answer(batch_id: str, number: int, custom_id: str, response: Any, error: Any) -> str:
    line_id = f"batch_req_{batch_id.removeprefix('batch_')}_{number}"
    return to_json({"id": line_id, "custom_id": custom_id, "response": response, "error": error})
