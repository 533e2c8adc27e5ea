"""How errors are answered: always as JSON, never as HTML, never with a stack trace.

Native routes answer RFC 9457 problems. A blueprint may have a shape of its own (`shape_errors`), which also
holds for errors below the blueprint's URL prefix for which there is no view: 404, 405 and the like.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, Flask, Response, current_app, request
from redis.exceptions import RedisError
from simple_websocket import ConnectionError as HandshakeError
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from tasks.connection import REDIS_RETRY_SECONDS, is_away
from tasks.errors import FieldError, InvalidRequestError, TokenrelayError, UnavailableError
from web.answers import ProblemBody
from web.render import to_json

logger = logging.getLogger(__name__)

_EXTENSION = "tokenrelay.error_shapes"


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """An error as clients see it, in any shape. `code` names the kind of error for programs."""

    status: int
    code: str
    title: str
    detail: str
    fields: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """How the errors of some routes look.

    encode: returns the error's body with its media type and its status. Its headers are added afterwards.
    body, media_type: what `encode` gives, for the documentation.
    status_of: returns the HTTP status that stands for one of ours.
    """

    encode: Callable[[ErrorReport], Response]
    body: Any
    media_type: str
    status_of: Callable[[int], int] = int


def register(app: Flask) -> None:
    app.extensions[_EXTENSION] = {}
    app.register_error_handler(TokenrelayError, error_response)
    app.register_error_handler(RedisError, _redis_failed)
    app.register_error_handler(HTTPException, _http_error)
    for error in (RemoteProtocolError, LocalProtocolError, HandshakeError):
        app.register_error_handler(error, _bad_handshake)
    app.register_error_handler(Exception, _unexpected)


def shape_errors(app: Flask, blueprint: Blueprint, shape: ErrorShape) -> None:
    """Gives the errors of a blueprint, and of those nested in it, a shape of their own."""
    app.extensions[_EXTENSION][blueprint.name] = shape


def shape_of(app: Flask, endpoint: str) -> ErrorShape:
    """Returns the shape of a view's errors. endpoint: Flask's name of the view."""
    return _shape(app, endpoint.split(".")[-2::-1])


def problem(report: ErrorReport) -> Response:
    """Returns a problem of RFC 9457, which is the default shape."""
    body: ProblemBody = {
        "type": f"urn:tokenrelay:error:{report.code}",
        "title": report.title,
        "status": report.status,
        "code": report.code,
        "detail": report.detail,
        "instance": request.path,
        "errors": [{"field": error.field, "message": error.message} for error in report.fields],
    }
    return Response(to_json(body), report.status, mimetype="application/problem+json")


PROBLEM = ErrorShape(problem, ProblemBody, "application/problem+json")


def error_response(error: TokenrelayError) -> Response:
    """Returns the answer for an error of ours, in the shape of the request's blueprint."""
    fields = error.errors if isinstance(error, InvalidRequestError) else ()
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="tokenrelay"'
    return _encoded(ErrorReport(error.status, error.code, error.title, error.detail, fields, headers))


def _encoded(report: ErrorReport) -> Response:
    response = _shape(current_app, _blueprint_names()).encode(report)
    response.headers.update(report.headers)
    return response


def _shape(app: Flask, blueprint_names: Sequence[str]) -> ErrorShape:
    shapes: dict[str, ErrorShape] = app.extensions[_EXTENSION]
    return next((shapes[name] for name in blueprint_names if name in shapes), PROBLEM)


def _blueprint_names() -> Sequence[str]:
    """Returns the blueprints of the request's view, the innermost first.

    If there is no view, it is the blueprint with the longest URL prefix of the path.
    """
    if request.endpoint is not None:
        return request.blueprints
    prefixes = {name: blueprint.url_prefix or "" for name, blueprint in current_app.blueprints.items()}
    covering = [name for name, prefix in prefixes.items() if prefix and _covers(prefix, request.path)]
    return sorted(covering, key=lambda name: len(prefixes[name]), reverse=True)[:1]


def _covers(prefix: str, path: str) -> bool:
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def _redis_failed(error: RedisError) -> Response:
    if not is_away(error):
        return _unexpected(error)
    logger.warning("%s %s: Redis: %s", request.method, request.path, error)
    detail = "Redis cannot be reached at present"
    return error_response(UnavailableError(detail, retry_after=REDIS_RETRY_SECONDS))


def _http_error(error: HTTPException) -> Response:
    """Answers Flask's own errors: no such route, no such method, a body that is too large and the like."""
    status = error.code or 500
    title = HTTP_STATUS_CODES.get(status, "Error")
    code = title.lower().replace(" ", "_")
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return _encoded(ErrorReport(status, code, title, _detail(error, headers), headers=headers))


def _detail(error: HTTPException, headers: Mapping[str, str]) -> str:
    """Returns what to do about an error of Flask's, where its own words do not say that."""
    match error.code:
        case 404:
            return f"there is no {request.path}; /docs lists all routes"
        case 405:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return f"{request.path} is no address of a WebSocket; that of a job is /v1/jobs/ID/stream"
            methods = ", ".join(sorted(headers["Allow"].split(", ")))
            return f"{request.path} does not take {request.method}, only {methods}"
    return error.description or error.name


def _bad_handshake(error: Exception) -> Response:
    """Answers with HTTP, because wsproto found the error before it accepted the WebSocket."""
    detail = str(error) or "malformed handshake"
    headers = {"Sec-WebSocket-Version": "13"}
    return _encoded(ErrorReport(400, "bad_handshake", "Bad WebSocket handshake", detail, headers=headers))


def _unexpected(error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.path, exc_info=error)
    return error_response(TokenrelayError("an unexpected error; the server's log has the details"))
