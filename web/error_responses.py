"""Errors as RFC 9457 problems. Whatever goes wrong, the answer is JSON and never a stack trace."""

from __future__ import annotations

import logging

from flask import Flask, Response, request
from redis.exceptions import RedisError
from simple_websocket import ConnectionError as HandshakeError
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from tasks.connection import is_away
from tasks.errors import FieldError, InvalidRequestError, TokenrelayError, UnavailableError
from tasks.store import REDIS_RETRY_SECONDS
from web.answers import ProblemBody
from web.render import to_json

logger = logging.getLogger(__name__)


def register(app: Flask) -> None:
    app.register_error_handler(TokenrelayError, problem)
    app.register_error_handler(RedisError, _redis_failed)
    app.register_error_handler(HTTPException, _http_error)
    for error in (RemoteProtocolError, LocalProtocolError, HandshakeError):
        app.register_error_handler(error, _bad_handshake)
    app.register_error_handler(Exception, _unexpected)


def problem(error: TokenrelayError) -> Response:
    errors = error.errors if isinstance(error, InvalidRequestError) else ()
    response = _problem(error.status, error.code, error.title, error.detail, errors)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="tokenrelay"'
    return response


def _problem(
    status: int, code: str, title: str, detail: str, errors: tuple[FieldError, ...] = ()
) -> Response:
    fields: ProblemBody = {
        "type": f"urn:tokenrelay:error:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "instance": request.path,
        "errors": [{"field": error.field, "message": error.message} for error in errors],
    }
    return Response(to_json(fields), status, mimetype="application/problem+json")


def _redis_failed(error: RedisError) -> Response:
    if not is_away(error):
        return _unexpected(error)
    logger.warning("%s %s: Redis: %s", request.method, request.path, error)
    return problem(UnavailableError("Redis cannot be reached at present", retry_after=REDIS_RETRY_SECONDS))


def _http_error(error: HTTPException) -> Response:
    """Flask's own: no such route, no such method, a body too large and the like."""
    status = error.code or 500
    title = HTTP_STATUS_CODES.get(status, "Error")
    response = _problem(status, title.lower().replace(" ", "_"), title, error.description or title)
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _bad_handshake(error: Exception) -> Response:
    """Found by wsproto before it answered, so that HTTP is still spoken."""
    response = _problem(400, "bad_handshake", "Bad WebSocket handshake", str(error) or "malformed handshake")
    response.headers["Sec-WebSocket-Version"] = "13"
    return response


def _unexpected(error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.path, exc_info=error)
    return problem(TokenrelayError("an unexpected error; the server's log has the details"))
