"""Errors that only the web server has. `tasks.errors` has the others and the base class."""

from __future__ import annotations

from tasks.errors import TokenrelayError, UnavailableError


class UnsupportedMediaTypeError(TokenrelayError):
    """The body must be JSON: Content-Type: application/json."""

    status = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"


class NotAWebSocketError(TokenrelayError):
    """This address answers WebSocket handshakes only; `/events` has the same events over plain HTTP."""

    status = 400
    code = "bad_handshake"
    title = "Bad WebSocket handshake"


class BodyTimeoutError(TokenrelayError):
    """The body of the request did not arrive in time; nothing was accepted."""

    status = 408
    code = "request_timeout"
    title = "Request timeout"


class TooManyStreamsError(TokenrelayError):
    """Too many streams and waiting calls of this key are open."""

    status = 429
    code = "too_many_streams"
    title = "Too many streams"


class ForbiddenOriginError(TokenrelayError):
    """Without API keys, only pages of this server may open its streams."""

    status = 403
    code = "forbidden_origin"
    title = "Forbidden origin"


class ForbiddenHostError(TokenrelayError):
    """This server does not go by the name in the Host header; ALLOWED_HOSTS can add it."""

    status = 403
    code = "forbidden_host"
    title = "Forbidden host"


class GoingAwayError(UnavailableError):
    """The server is going away; resume with `after`, on another one."""

    code = "going_away"
    title = "Going away"
