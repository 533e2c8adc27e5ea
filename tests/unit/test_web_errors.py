"""Errors have the shape of their blueprint, whether or not a view was found."""

from __future__ import annotations

import json

import pytest
from flask import Blueprint, Response
from flask.testing import FlaskClient

import web
from tasks.errors import FieldError, InvalidRequestError, UnavailableError
from tasks.settings import Settings
from web import error_responses
from web.error_responses import ErrorReport, ErrorShape

KEY = {"Authorization": "Bearer key"}


def flat(report: ErrorReport) -> Response:
    body = {"error": report.code, "about": [error.field for error in report.fields]}
    return Response(json.dumps(body), report.status, mimetype="application/json")


@pytest.fixture
def client() -> FlaskClient:
    """A client of an app with another blueprint, whose errors are flat, at the native routes' prefix /v1."""
    other, nested = Blueprint("other", __name__, url_prefix="/v1"), Blueprint("nested", __name__)

    @other.get("/full")
    def full() -> Response:
        raise UnavailableError("no room", retry_after=7)

    @nested.get("/nested")
    def wrong() -> Response:
        raise InvalidRequestError([FieldError("n", "too large")])

    @other.get("/broken")
    def broken() -> Response:
        raise RuntimeError

    app = web.create_app(Settings(redis_url="redis://nobody", api_keys={"key": "name"}))
    other.register_blueprint(nested)
    app.register_blueprint(other)
    error_responses.shape_errors(app, other, ErrorShape(flat, dict, "application/json"))
    return app.test_client()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/full", 503, "unavailable"),
        ("GET", "/v1/nested", 422, "invalid_request"),
        ("GET", "/v1/broken", 500, "internal_error"),
        ("GET", "/v1/none", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
        ("DELETE", "/v1/full", 405, "method_not_allowed"),
    ],
)
def test_a_blueprints_errors_have_its_shape(
    client: FlaskClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.open(path, method=method, headers=KEY)
    assert (answer.status_code, answer.mimetype) == (status, "application/json")
    assert answer.get_json() == {"error": code, "about": ["n"] if status == 422 else []}


def test_a_missing_key_has_the_shape_of_the_view(client: FlaskClient) -> None:
    assert client.get("/v1/full").get_json()["error"] == "unauthorized"
    assert client.get("/v1/jobs").get_json()["type"] == "urn:tokenrelay:error:unauthorized"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/jobs", 415),
        ("PUT", "/v1/jobs", 405),
        ("GET", "/v1/jobs/x/none", 404),
        ("GET", "/v12", 404),
        ("GET", "/none", 404),
        ("PUT", "/generate", 405),
    ],
)
def test_other_errors_are_problems(client: FlaskClient, method: str, path: str, status: int) -> None:
    answer = client.open(path, method=method, headers=KEY)
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert answer.get_json()["instance"] == path


def test_every_shape_has_the_errors_headers(client: FlaskClient) -> None:
    assert client.get("/v1/full", headers=KEY).headers["Retry-After"] == "7"
    assert client.get("/v1/full").headers["WWW-Authenticate"] == 'Bearer realm="tokenrelay"'
    assert "GET" in client.delete("/v1/full", headers=KEY).headers["Allow"]
