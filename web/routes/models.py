"""`/v1/models`: what jobs can ask for, in OpenAI's shape."""

from __future__ import annotations

from flask import Blueprint, Response

from tasks.errors import ModelNotFoundError
from tasks.registry import Model
from web.answers import ModelBody, ModelListBody
from web.render import json_response
from web.services import services

bp = Blueprint("models", __name__, url_prefix="/v1/models")


@bp.get("")
def models() -> Response:
    """Those without a live worker included: their jobs wait."""
    body: ModelListBody = {"object": "list", "data": [_body(model) for model in services().store.models()]}
    return json_response(body)


@bp.get("/<path:model_id>")
def model(model_id: str) -> Response:
    """A hub id has a slash in it. Raises ModelNotFoundError."""
    for known in services().store.models():
        if known.id == model_id:
            return json_response(_body(known))
    raise ModelNotFoundError(f"no worker ever announced {model_id!r}")


def _body(model: Model) -> ModelBody:
    """OpenAI's four fields, and who serves it.

    max_model_len: the shortest that a worker takes, as any of them may get the job; null while none says.
    """
    lengths = [worker.get("max_model_len") for worker in model.workers]
    return {
        "id": model.id,
        "object": "model",
        "created": int(model.since),
        "owned_by": "tokenrelay",
        "status": "served" if model.workers else "away",
        "engines": sorted({worker["engine"] for worker in model.workers}),
        "workers": len(model.workers),
        "slots": sum(worker["slots"] for worker in model.workers),
        "max_model_len": min((length for length in lengths if length is not None), default=None),
    }
