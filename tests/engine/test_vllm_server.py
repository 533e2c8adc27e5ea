"""docs/openai-comparison.md says of vLLM's server what its code says. `make test-vllm` runs this."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import vllm
from fastapi import FastAPI
from vllm.entrypoints.generate.api_router import register_generate_api_routers
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.models.api_router import attach_router
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.exceptions import VLLMValidationError

from tests.openai_tables import compared

VLLM = Path(vllm.__file__).parent
SHARED = ("entrypoints/generate/base", "entrypoints/serve", "renderers")
"""Folders of vLLM that read the fields of all requests."""

REFUSED = {"prompt": {"id": "x"}}
"""Fields of responses that vLLM refuses, with values of their types."""

ROUTES = pytest.mark.parametrize(
    ("heading", "request_type"),
    [
        ("Fields of completions", CompletionRequest),
        ("Fields of chat completions", ChatCompletionRequest),
        ("Fields of responses", ResponsesRequest),
    ],
)


@ROUTES
def test_each_field_has_its_effect(heading: str, request_type: Any) -> None:
    fields = compared(heading)
    assert fields.keys() >= request_type.model_fields.keys()
    found = {name: effect(name, request_type) for name in fields}
    assert {name: said.vllm for name, said in fields.items()} == found


def effect(name: str, request_type: Any) -> str:
    """Returns what the server does with a field, according to where its code reads it."""
    field = request_type.model_fields.get(name)
    if field is None or "gnored on regular generation" in (field.description or ""):
        return "ignored"
    if request_type is ResponsesRequest and name in REFUSED:
        return "refused"
    if name in request_type.__private_attributes__["_DEFAULT_SAMPLING_PARAMS"].default:
        return "yes"  # These are read in a loop over their names.
    reads = rf"(?:\w+=)?\b(?:request|self|req|params)\.{name}\b"
    protocol = Path(inspect.getfile(request_type))
    inside = re.findall(reads, protocol.read_text())
    folders = (protocol.parent, *(VLLM / folder for folder in SHARED))
    others = [path for folder in folders for path in folder.rglob("*.py") if path != protocol]
    elsewhere = [read for path in others for read in re.findall(reads, path.read_text())]
    if not elsewhere and not inside:
        return "ignored"
    # A response is made from its request in the protocol.
    return "yes" if elsewhere or set(inside) != {f"{name}=request.{name}"} else "shown"


def test_a_field_that_is_called_refused_is_refused() -> None:
    for name, value in REFUSED.items():
        assert compared("Fields of responses")[name].vllm == "refused"
        with pytest.raises(VLLMValidationError, match="not supported"):
            ResponsesRequest.model_validate({"input": "x", name: value})


@ROUTES
def test_a_field_that_is_not_known_is_accepted(heading: str, request_type: Any) -> None:
    """So the comparison calls each of them ignored."""
    assert "temprature" not in compared(heading)
    task = {"prompt": "x"} if request_type is CompletionRequest else {"input": "x", "messages": []}
    assert request_type.model_validate({**task, "temprature": 0})


def test_the_routes() -> None:
    app = FastAPI()
    attach_router(app)
    register_generate_api_routers(app)
    served = {
        f"{method} {re.sub('{[a-z_]+}', 'ID', path)}"
        for path, operations in app.openapi()["paths"].items()
        for method in map(str.upper, operations)
        if re.match(r"/v1/(models|completions|chat|responses|files|batches)\b", path)
    }
    assert {route for route, said in compared("Routes").items() if said.vllm == "yes"} == served
