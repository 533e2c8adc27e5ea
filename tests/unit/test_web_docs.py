"""The OpenAPI document and `/docs`: every route, field and parameter is described."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator

import web
from client import Job, JobSummary
from client import errors as client_errors
from tasks.settings import Settings

UNDOCUMENTED = {"static", "site.index", "site.page", "docs.document", "docs.page"}


@pytest.fixture
def client() -> FlaskClient:
    settings = Settings(redis_url="redis://nobody", api_keys={"key": "name"})
    return web.create_app(settings).test_client()


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.get_json()
    return found


def test_every_route_is_documented(client: FlaskClient, document: dict[str, Any]) -> None:
    served = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in client.application.url_map.iter_rules()
        if rule.endpoint not in UNDOCUMENTED
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert served == {(method, path) for path, item in document["paths"].items() for method in item}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield from ([part["$ref"]] if "$ref" in part else [])
        for child in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from references(child)

    found = set(references(document))
    assert "#/components/schemas/JobRequest" in found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_the_document_is_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_every_field_and_parameter_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    fields = {
        f"{name}.{field}": schema
        for name, parent in schemas.items()
        for field, schema in parent.get("properties", {}).items()
    }
    assert {"JobRequest.prompt", "JobBody.status", "ProblemBody.detail", "TokenEvent.text"} <= fields.keys()
    parameters = {
        f"{path} {parameter['name']}": parameter
        for path, item in document["paths"].items()
        for operation in item.values()
        for parameter in operation["parameters"]
        if parameter["in"] != "path"
    }
    assert [name for name, part in (fields | parameters).items() if not part.get("description")] == []


IN_WORDS = {"PromptBody", "PromptsBody"}
"""Bodies whose numbers the job's own request validates; their descriptions say the ranges."""


def test_every_number_has_a_range(document: dict[str, Any]) -> None:
    def numbers(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, dict):
            yield from ([part] if part.get("type") in ("integer", "number") else [])
        for child in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from numbers(child)

    bounds = {"minimum", "exclusiveMinimum", "maximum"}
    schemas = document["components"]["schemas"]
    parameters = [
        operation["parameters"] for item in document["paths"].values() for operation in item.values()
    ]
    found = [
        *numbers([schema for name, schema in schemas.items() if name not in IN_WORDS]),
        *numbers(parameters),
    ]
    assert len(found) > 30
    assert [number for number in found if not bounds & number.keys()] == []


def test_every_answer_with_a_body_has_a_schema(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for operation in item.values():
            assert operation["responses"]
            for status, answer in operation["responses"].items():
                contents = answer.get("content", {}).values()
                assert bool(contents) == (status != "204"), (path, status)
                assert all(content["schema"] for content in contents), (path, status)


def test_operation_ids_are_distinct(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(ids)) == len(ids)


def test_the_keyless_routes_are_those_that_answer_without_a_key(
    client: FlaskClient, document: dict[str, Any]
) -> None:
    for path, item in document["paths"].items():
        if "get" in item and "stream" not in path:
            is_refused = client.get(path.replace("{job_id}", "job_x")).status_code == 401
            assert is_refused == bool(item["get"]["security"]), path


def test_the_page_needs_nothing_from_elsewhere(client: FlaskClient, document: dict[str, Any]) -> None:
    page = client.get("/docs")
    assert page.mimetype == "text/html"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert not re.search(r"<script|<style| style=|https?://", page.text)
    for path in document["paths"]:
        assert path in page.text
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page.text
    for anchor in re.findall('href="#([^"]+)"', page.text):
        assert anchor in document["components"]["schemas"]
    assert json.dumps(document)


def test_descriptions_are_shown_as_text_with_names_as_code(client: FlaskClient) -> None:
    page = client.get("/docs").text
    assert "either this, <code>prompt_token_ids</code> or <code>messages</code>" in page
    assert "`" not in page


def test_the_clients_fields_are_the_documents(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert list(JobSummary.__slots__) == list(schemas["JobSummaryBody"]["properties"])
    used = set(re.findall(r'self\.fields\["(\w+)"\]', inspect.getsource(Job)))
    assert len(used) > 4
    assert used <= schemas["JobBody"]["properties"].keys()
    assert set(client_errors.ERRORS_BY_STATUS) <= {
        int(status)
        for path in document["paths"].values()
        for operation in path.values()
        for status in operation["responses"]
    }
