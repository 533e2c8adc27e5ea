"""A view's signature decides how its inputs are read and described."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from flask import Blueprint, Flask, Response
from flask.testing import FlaskClient
from pydantic import BaseModel, ConfigDict, Field

from web import error_responses
from web.answers import ProbeBody
from web.endpoints import Input, endpoint
from web.json_body import from_body
from web.openapi import make_document, routes_of
from web.parameters import IdempotencyKey, PreferredWait, StreamParameters, from_query

bp = Blueprint("sample", __name__, url_prefix="/sample")

read: list[str] = []


def noted(name: str) -> Input:
    def note() -> str:
        read.append(name)
        return name

    return Input(note)


class Page(BaseModel):
    size: int = Field(5, ge=1, description="entries")


class Entry(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1, description="its name")


@bp.post("/<path:name>")
@endpoint("Sample", {201: "made", 422: "is wrong"}, gives=ProbeBody)
def sample(
    name: str,
    page: Annotated[Page, from_query],
    key: IdempotencyKey,
    wait: PreferredWait,
    entry: Annotated[Entry, from_body],
) -> Response:
    return Response(f"{name} {page.size} {key} {wait} {entry.name}", 201)


@bp.get("/order")
@endpoint("Order", {200: "read"})
def order(
    second: Annotated[str, noted("second")], first: Annotated[str, noted("first")], plain: str = "unset"
) -> Response:
    return Response(f"{first} {second} {plain}")


@bp.get("/stream")
@endpoint("Stream", {200: "read"})
def stream(query: StreamParameters) -> Response:
    return Response(f"{query.after} {query.done}")


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    error_responses.register(app)
    app.register_blueprint(bp)
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def fields(client: FlaskClient, path: str, **options: Any) -> list[str]:
    answer = client.open(path, **options)
    assert answer.status_code == 422
    return [error["field"] for error in answer.get_json()["errors"]]


def test_a_view_gets_its_inputs(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "k", "Prefer": "wait=3"}
    answer = client.post("/sample/a/b?size=7&other=1", json={"name": "x"}, headers=headers)
    assert (answer.status_code, answer.text) == (201, "a/b 7 k 3 x")
    assert client.post("/sample/a", json={"name": "x"}).text == "a 5 None None x"


def test_inputs_are_read_in_the_order_of_the_signature(client: FlaskClient) -> None:
    read.clear()
    assert client.get("/sample/order").text == "first second unset"
    assert read == ["second", "first"]


def test_a_bad_input_is_named(client: FlaskClient) -> None:
    assert fields(client, "/sample/a?size=0", method="POST") == ["size"]
    assert fields(client, "/sample/a", method="POST", headers={"Prefer": "wait=61"}) == ["Prefer"]
    assert fields(client, "/sample/a", method="POST", json={"name": ""}) == ["name"]
    assert client.post("/sample/a", data="{}").status_code == 415


@pytest.mark.parametrize(
    ("query", "header", "expected"),
    [
        ("", "", "0 full"),
        ("?after=4&done=short", "", "4 short"),
        ("?after=4", "9", "9 full"),
        ("?after=x", "9", "9 full"),
    ],
)
def test_a_streams_beginning_is_the_headers_or_the_querys(
    client: FlaskClient, query: str, header: str, expected: str
) -> None:
    assert client.get(f"/sample/stream{query}", headers={"Last-Event-ID": header}).text == expected


def test_a_bad_beginning_of_a_stream_is_named(client: FlaskClient) -> None:
    assert fields(client, "/sample/stream?after=-1&done=long") == ["after", "done"]
    assert fields(client, f"/sample/stream?after={2**63}") == ["after"]
    assert fields(client, "/sample/stream?done=long", headers={"Last-Event-ID": "1"}) == ["done"]
    assert fields(client, "/sample/stream", headers={"Last-Event-ID": "x"}) == ["Last-Event-ID"]


def test_the_description_says_what_is_read(app: Flask) -> None:
    document = make_document(routes_of(app))
    assert document["paths"].keys() == {"/sample/{name}", "/sample/order", "/sample/stream"}
    made = document["paths"]["/sample/{name}"]["post"]
    assert [(each["name"], each["in"]) for each in made["parameters"]] == [
        ("name", "path"),
        ("size", "query"),
        ("Idempotency-Key", "header"),
        ("Prefer", "header"),
    ]
    assert made["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Entry")
    meanings = {status: answer["description"] for status, answer in made["responses"].items()}
    assert meanings.items() >= {("201", "made"), ("413", "over 1 MiB"), ("422", "is wrong")}
    assert "Page" not in document["components"]["schemas"]
