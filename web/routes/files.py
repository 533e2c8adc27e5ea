"""OpenAI's files: the requests of batches, and what batches answer."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from itertools import chain
from typing import Annotated

from flask import Blueprint, Response, request, stream_with_context
from redis.exceptions import RedisError

from tasks.connection import is_away
from tasks.errors import FileDamagedError
from web import auth
from web.endpoints import endpoint
from web.openai.batches.bodies import FileBody, FileDeletedBody, FileListBody, file_body
from web.openai.uploads import ReceivedFile
from web.parameters import ContentQuery, FileListQuery, from_query
from web.render import json_response
from web.services import services

bp = Blueprint("files", __name__, url_prefix="/v1/files")

NO_FILE = {404: "no such file of yours"}
BINARY = "application/octet-stream"

logger = logging.getLogger(__name__)


@bp.post("")
@endpoint(
    "Upload a file for a batch",
    {200: "the file", 503: "nothing was accepted"},
    gives=FileBody,
)
def upload(file: ReceivedFile) -> Response:
    return json_response(file_body(file))


@bp.get("")
@endpoint("List your files", {200: "a page"}, gives=FileListBody)
def list_files(query: Annotated[FileListQuery, from_query]) -> Response:
    files, has_more = services().files.list_files(
        auth.owner(), query.purpose, query.limit, query.after, newest_first=query.order == "desc"
    )
    data = [file_body(file) for file in files]
    body: FileListBody = {
        "object": "list",
        "data": data,
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
    return json_response(body)


@bp.get("/<file_id>")
@endpoint("A file", {200: "the file", **NO_FILE}, gives=FileBody)
def file(file_id: str) -> Response:
    return json_response(file_body(services().files.get(file_id, auth.owner())))


@bp.delete("/<file_id>")
@endpoint(
    "Delete a file",
    {200: "gone", 409: "a batch that has not ended uses it", **NO_FILE},
    gives=FileDeletedBody,
)
def delete(file_id: str) -> Response:
    services().files.delete(file_id, auth.owner())
    body: FileDeletedBody = {"id": file_id, "object": "file", "deleted": True}
    return json_response(body)


@bp.get("/<file_id>/content")
@endpoint(
    "The contents of a file, also while its batch runs",
    {
        200: "the contents so far; of a batch's file, `X-Incomplete: true` says that lines may follow, and "
        "`X-Last-Line` is the number of lines up to the end of this answer: the `offset` to go on with",
        410: "the contents are missing or damaged",
        **NO_FILE,
    },
    gives=str,
    content=BINARY,
)
def content(file_id: str, query: Annotated[ContentQuery, from_query]) -> Response:
    files = services().files
    # The record is read once. Lines that a batch appends later are for the next request.
    found = files.get(file_id, auth.owner())
    start = files.start_of_line(found, query.offset) if query.offset else 0
    pieces = files.pieces(found, start)
    first = next(pieces, b"")  # An error of this one can still be answered.
    response = Response(stream_with_context(_sent(first, pieces)), mimetype=BINARY)
    response.content_length = found.bytes - start
    if found.purpose == "batch_output":
        response.headers["X-Incomplete"] = str(found.is_open).lower()
        response.headers["X-Last-Line"] = str(found.lines)
    response.headers["Content-Disposition"] = "attachment"
    return response


def _sent(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the contents. If they cannot be read on, it closes the connection, so the client sees it."""
    if request.method == "HEAD":
        return
    try:
        yield from chain([first], rest)
    except (RedisError, FileDamagedError) as error:
        if isinstance(error, RedisError) and not is_away(error):
            raise
        logger.warning("the contents of a file are cut off: %s", error)
        # gunicorn closes the connection for this error, and logs no traceback.
        raise ConnectionResetError(errno.ECONNRESET, "the contents are cut off") from error
