"""Files, as OpenAI's own SDK sees them."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tests.integration.batch_harness import jsonl, line
from tests.integration.web_harness import RedisServer, Server, serving

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.openai_fixtures"]

CONTENTS = jsonl([line(str(number), prompt="é" * 1000) for number in range(200)])
"""More than a megabyte, which is the limit of other bodies."""


@pytest.fixture(params=["redis", "disk"])
def files_sdk(
    request: pytest.FixtureRequest, web_redis: Redis, redis_of_web: RedisServer, tmp_path: Path
) -> Iterator[OpenAI]:
    """The SDK at a server with either kind of store and small limits."""
    web_redis.ping()
    limits = {"MAX_FILE_BYTES": "3000000", "OWNER_FILES_BYTES": "4000000"}
    folder = {"FILES_DIR": str(tmp_path / "files")} if request.param == "disk" else {}
    with (
        serving(redis_of_web.url, tmp_path, **limits, **folder) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as opened,
    ):
        yield opened


def test_a_file_comes_back_as_it_was_sent(files_sdk: OpenAI, web_redis: Redis) -> None:
    made = files_sdk.files.create(
        file=("input.jsonl", io.BytesIO(CONTENTS)),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert (made.bytes, made.filename, made.purpose) == (len(CONTENTS), "input.jsonl", "batch")
    assert made.expires_at == made.created_at + 7200
    assert files_sdk.files.wait_for_processing(made.id) == files_sdk.files.retrieve(made.id) == made
    assert files_sdk.files.content(made.id).content == CONTENTS
    rest = files_sdk.files.content(made.id, extra_query={"offset": 150}).content
    assert rest == b"".join(CONTENTS.splitlines(keepends=True)[150:])
    assert files_sdk.files.delete(made.id).deleted
    for call in (files_sdk.files.retrieve, files_sdk.files.content, files_sdk.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    assert web_redis.keys("*content:*") == []
    assert web_redis.hgetall(keys.PREFIX + "file_bytes") == {}
    assert web_redis.hgetall(keys.PREFIX + "bytes") == {}


def test_an_upload_beyond_a_limit_leaves_nothing(files_sdk: OpenAI, web_redis: Redis, tmp_path: Path) -> None:
    with pytest.raises(openai.APIStatusError) as too_long:
        files_sdk.files.create(file=("a", b"x" * 3_000_001), purpose="batch")
    assert too_long.value.status_code == 413
    files_sdk.files.create(file=("a", b"x" * 3_000_000), purpose="batch")
    with pytest.raises(openai.RateLimitError) as over:
        files_sdk.files.create(file=("b", b"x" * 1_000_001), purpose="batch")
    assert over.value.code == "files_over_share"
    assert int(over.value.response.headers["Retry-After"]) > 0
    assert [file.filename for file in files_sdk.files.list()] == ["a"]
    assert len(web_redis.keys("*:file:*")) == 1
    assert len(list(tmp_path.glob("files/*"))) in (0, 1)


def test_lists_have_pages_in_both_orders(sdk: OpenAI, web_redis: Redis) -> None:
    web_redis.ping()
    made = [sdk.files.create(file=(str(number), b"x"), purpose="batch").id for number in range(5)]
    assert [file.id for file in sdk.files.list(limit=2)] == made[::-1]
    assert [file.id for file in sdk.files.list(limit=2, order="asc", purpose="batch")] == made
    assert [file.id for file in sdk.files.list(limit=2, after=made[2]).data] == [made[1], made[0]]
    assert sdk.files.list(purpose="batch_output").data == []
    with pytest.raises(openai.BadRequestError):
        sdk.files.list(after="file-none")


@pytest.mark.parametrize(
    ("files", "fields", "param"),
    [
        ({"file": ("a", b"x")}, {"purpose": "fine-tune"}, "purpose"),
        ({"file": ("a", b"x")}, {}, "purpose"),
        ({"file": ("a", b"")}, {"purpose": "batch"}, "file"),
        ({"other": ("a", b"x")}, {"purpose": "batch"}, "file"),
        ({"file": ("a", b"x")}, {"purpose": "batch", "colour": "red"}, "colour"),
        ({"file": ("a", b"x")}, {"purpose": "batch", "expires_after[seconds]": "5"}, "expires_after.anchor"),
    ],
)
def test_a_wrong_form_is_refused_by_its_field(
    client: httpx.Client, web_redis: Redis, files: Any, fields: dict[str, str], param: str
) -> None:
    answer = client.post("/v1/files", files=files, data=fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert web_redis.keys("*file*") == []


def test_another_body_than_a_form_is_refused(client: httpx.Client) -> None:
    assert client.post("/v1/files", json={"purpose": "batch"}).status_code == 415
    broken = {"Content-Type": "multipart/form-data"}
    assert client.post("/v1/files", content=b"x", headers=broken).status_code == 400


UPLOAD_HEAD = (
    b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
)


def test_an_upload_is_stored_while_it_arrives_and_removed_if_its_client_leaves(
    client: httpx.Client, server: Server, web_redis: Redis
) -> None:
    with socket.create_connection(server.address, TIMEOUT_SECONDS) as connection:
        connection.sendall(UPLOAD_HEAD + b"x" * 600_000)
        eventually(lambda: any(web_redis.strlen(key) for key in web_redis.keys("*content:*")))
        assert client.get("/v1/files").json()["data"] == []
    eventually(lambda: not web_redis.keys("*file*"))


def test_an_upload_that_stalls_is_refused(
    web_redis: Redis, redis_of_web: RedisServer, tmp_path: Path
) -> None:
    with (
        serving(redis_of_web.url, tmp_path, TEST_BODY_SECONDS="1") as server,
        socket.create_connection(server.address, TIMEOUT_SECONDS) as connection,
    ):
        connection.sendall(UPLOAD_HEAD + b"x" * 1000)
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")
    assert web_redis.keys("*file*") == []


def test_a_file_that_somebody_damaged_is_no_file(sdk: OpenAI, web_redis: Redis) -> None:
    made = sdk.files.create(file=("a", b"x" * 10), purpose="batch")
    web_redis.delete(keys.content(made.id))
    with pytest.raises(openai.APIStatusError) as damaged:
        sdk.files.content(made.id)
    assert damaged.value.status_code == 410


def test_an_expired_file_is_removed(sdk: OpenAI, web_redis: Redis, server: Server) -> None:
    assert server.url
    made = sdk.files.create(file=("a", b"x"), purpose="batch")
    web_redis.zadd(keys.PREFIX + "file_expiry", {made.id: 0})
    eventually(lambda: not web_redis.keys("*file*"))
