"""JSON as clients read it, and the body of a job."""

from __future__ import annotations

import json
from typing import Any

from flask import Response

from tasks.job import Job
from web.answers import JobBody, UrlsBody

_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def json_response(body: object, status: int = 200) -> Response:
    return Response(to_json(body), status, mimetype="application/json")


def job_body(job: Job, base_url: str) -> JobBody:
    """Returns the contract's job. base_url: scheme and host as the client sees them, no final slash."""
    own_url = f"{base_url}/v1/jobs/{job.id}"
    urls: UrlsBody = {
        "self": own_url,
        "cancel": f"{own_url}/cancel",
        "events": f"{own_url}/events",
        "stream": f"ws{own_url.removeprefix('http')}/stream",
    }
    return {**job.to_dict(), "urls": urls}


def to_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # Many clients split lines at these characters (httpx, str.splitlines), which would cut an SSE field.
    return text.translate(_LINE_ENDS) if not text.isascii() else text
