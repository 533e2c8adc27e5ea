"""Health: whether the process is up, whether it can accept jobs, and whether they can run."""

from __future__ import annotations

from flask import Blueprint, Response
from redis.exceptions import RedisError

from tasks.errors import UnavailableError
from tasks.registry import Readiness
from web.answers import HealthBody, ProbeBody
from web.endpoints import endpoint
from web.render import json_response
from web.services import services

RETRY_SECONDS = 2

WHY_NOT_READY = {
    Readiness.NO_WORKER: "no worker with a loaded model takes jobs",
    Readiness.SETTLING: "Redis was restarted a moment ago; workers take jobs within a few seconds",
}

bp = Blueprint("health", __name__, url_prefix="/health")


@bp.get("/live")
@endpoint("The process is up", {200: "yes"}, gives=ProbeBody)
def live() -> Response:
    return _ok()


@bp.get("/web")
@endpoint("Jobs can be accepted", {200: "yes", 503: "no, and why"}, gives=ProbeBody)
def web() -> Response:
    """Answers the probe for load balancers: Redis answers."""
    _require_redis()
    return _ok()


@bp.get("/ready")
@endpoint("Jobs can run", {200: "yes", 503: "no, and why"}, gives=ProbeBody)
def ready() -> Response:
    """Answers the probe for the whole product: a worker has loaded its model and takes jobs."""
    _require_redis()
    reason = WHY_NOT_READY.get(services().store.readiness())
    if reason is not None:
        raise UnavailableError(reason, retry_after=RETRY_SECONDS)
    return _ok()


@bp.get("")
@endpoint("Jobs by status and the live workers", {200: "the numbers"}, gives=HealthBody)
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
