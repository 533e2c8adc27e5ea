"""`/openapi.json`, and the same for people at `/docs`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, current_app, render_template
from markupsafe import Markup

from web.openapi import SCHEMAS, make_document, routes_of
from web.render import json_response
from web.routes.site import CONTENT_SECURITY_POLICY

bp = Blueprint("docs", __name__)

_EXTENSION = "tokenrelay.openapi"


@bp.get("/openapi.json")
def document() -> Response:
    return json_response(_document())


@bp.get("/docs")
def page() -> Response:
    html = render_template(
        "docs.html", document=_document(), phrase=_phrase, prefix=SCHEMAS, bounds=_bounds, marked=_marked
    )
    response = Response(html)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


def _document() -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document. It is made when the app is first asked for it."""
    extensions = current_app.extensions
    if _EXTENSION not in extensions:
        extensions[_EXTENSION] = make_document(routes_of(current_app))
    found: dict[str, Any] = extensions[_EXTENSION]
    return found


def _phrase(status: str) -> str:
    return HTTPStatus(int(status)).phrase


def _marked(text: str) -> Markup:
    """Returns a description with its `names` as code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts)
    )


BOUNDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "minLength": "length from {}",
    "maxLength": "length to {}",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "maxProperties": "at most {}",
}


def _bounds(schema: dict[str, Any]) -> str:
    """Returns what a schema asks of a value beyond its type, in words."""
    return ", ".join(text.format(schema[name]) for name, text in BOUNDS.items() if name in schema)
