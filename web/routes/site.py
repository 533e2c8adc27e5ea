"""The playground page and its files in `web/pages/`."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, send_from_directory

PAGES = Path(__file__).parents[1] / "pages"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

bp = Blueprint("site", __name__)


@bp.get("/")
def index() -> Response:
    return page("index", "html")


@bp.get("/<name>.<kind>")
def page(name: str, kind: str) -> Response:
    response = send_from_directory(PAGES, f"{name}.{kind}")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response
