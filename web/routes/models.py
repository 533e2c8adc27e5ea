"""`/v1/models`: the models that jobs can ask for, in OpenAI's shape."""

from __future__ import annotations

from flask import Blueprint, Response

from tasks.errors import ModelNotFoundError
from tasks.registry import Model
from web.answers import ModelBody, ModelListBody
from web.endpoints import endpoint
from web.render import json_response
from web.services import services

bp = Blueprint("models", __name__, url_prefix="/v1/models")


@bp.get("")
@endpoint("The models that jobs can ask for, and who serves them", {200: "all of them"}, gives=ModelListBody)
def models() -> Response:
    """Lists all models, also those without a live worker, whose jobs wait."""
    body: ModelListBody = {"object": "list", "data": [_body(model) for model in services().store.models()]}
    return json_response(body)


@bp.get("/<path:model_id>")
@endpoint("A model", {200: "the model", 404: "no worker ever announced it"}, gives=ModelBody)
def model(model_id: str) -> Response:
    """Returns a model. Its id may contain a slash. Raises ModelNotFoundError."""
    for known in services().store.models():
        if known.id == model_id:
            return json_response(_body(known))
    raise ModelNotFoundError(f"no worker ever announced {model_id!r}")


def _body(model: Model) -> ModelBody:
    """Returns OpenAI's four fields, and who serves the model.

    max_model_len: the smallest of its workers, because any of them may get the job; null while none says.
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
