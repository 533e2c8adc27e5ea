"""Is it up, can it take jobs, can it run them."""

from __future__ import annotations

from flask import Blueprint, Response
from redis.exceptions import RedisError

from tasks.errors import UnavailableError
from web.answers import HealthBody, ProbeBody
from web.render import json_response
from web.services import services

RETRY_SECONDS = 2

bp = Blueprint("health", __name__, url_prefix="/health")


@bp.get("/live")
def live() -> Response:
    """The process answers."""
    return _ok()


@bp.get("/web")
def web() -> Response:
    """Redis answers: jobs can be accepted. The probe for load balancers."""
    _require_redis()
    return _ok()


@bp.get("/ready")
def ready() -> Response:
    """A worker takes jobs as well: it has loaded its model, and is not about to end."""
    _require_redis()
    if not any(worker["slots"] for worker in services().store.workers()):
        raise UnavailableError("no worker with a loaded model takes jobs", retry_after=RETRY_SECONDS)
    return _ok()


@bp.get("")
def health() -> Response:
    store = services().store
    body: HealthBody = {"jobs": store.counts(), "workers": store.workers()}
    return json_response(body)


def _require_redis() -> None:
    try:
        services().log.ping()
    except RedisError:
        raise UnavailableError("Redis does not answer", retry_after=RETRY_SECONDS) from None


def _ok() -> Response:
    body: ProbeBody = {"status": "ok"}
    return json_response(body)
