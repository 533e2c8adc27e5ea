"""Takes uploads: bodies of multipart/form-data with a file, which is stored while it arrives."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import IO, Annotated, Any, Literal, cast

from flask import request
from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from tasks.errors import FieldError, InvalidRequestError, MalformedRequestError
from tasks.uploads import FileRecord, Upload
from web import auth
from web.endpoints import BAD_FIELD, Input
from web.errors import UnsupportedMediaTypeError
from web.json_body import validated
from web.services import services

MAX_FIELD_BYTES = 512 * 1024
"""The most bytes of the fields beside the file. Werkzeug also holds a piece of the file in this memory."""

FILENAME_CHARACTERS = 255

UPLOAD_REFUSALS = {
    400: "not a form with a file",
    408: "the body did not arrive in time",
    413: "the file is longer than MAX_FILE_BYTES",
    415: "not multipart/form-data",
    429: "your files take as much as an owner's may",
    **BAD_FIELD,
}


class ExpiresAfter(BaseModel):
    """When a file is removed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anchor: Literal["created_at"] = Field(description="always `created_at`")
    seconds: int = Field(ge=3600, le=2_592_000, description="how long it is kept: an hour to 30 days")


class UploadFields(BaseModel):
    """The fields of an upload beside the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    purpose: Literal["batch"] = Field(description="only `batch` is supported")
    expires_after: ExpiresAfter | None = Field(None, description="by default as long as an ended job is kept")


class UploadForm(UploadFields):
    """A file and what is to become of it, as a form. A field of an object is written as `name[field]`."""

    file: str = Field(
        description="the file", json_schema_extra={"contentMediaType": "application/octet-stream"}
    )


class _Sink:
    """Stores a file while the form is parsed. It looks like a file to werkzeug."""

    def __init__(self, upload: Upload, most_bytes: int) -> None:
        self._upload = upload
        self._most_bytes = most_bytes

    def write(self, data: bytes) -> int:
        if self._upload.bytes + len(data) > self._most_bytes:
            raise RequestEntityTooLarge(f"the file is longer than {self._most_bytes} bytes")
        return self._upload.write(data)

    def seek(self, _: int) -> int:
        return 0


def _receive() -> FileRecord:
    """Returns the file that the request brought.

    Raises UnsupportedMediaTypeError, MalformedRequestError, InvalidRequestError, BodyTimeoutError, werkzeug's
    RequestEntityTooLarge, and what `Upload` raises.
    """
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaTypeError("The body must be a form with a file: multipart/form-data.")
    upload = services().files.upload(auth.owner())
    try:
        return _parsed(upload)
    except Exception:
        with suppress(RedisError):  # What has arrived is removed later.
            upload.discard()
        raise


def _parsed(upload: Upload) -> FileRecord:
    settings = services().settings
    names: list[str] = []

    def sink(*_: Any, **__: Any) -> IO[bytes]:
        if names:
            raise InvalidRequestError([FieldError("file", "only one file is accepted")])
        names.append("file")
        return cast("IO[bytes]", _Sink(upload, settings.max_file_bytes))

    # Werkzeug silently cuts a chunked body off at its limit. The file is counted, so it never comes to that.
    request.max_content_length = settings.max_file_bytes + 2 * MAX_FIELD_BYTES
    parser = FormDataParser(
        stream_factory=sink,
        max_form_memory_size=MAX_FIELD_BYTES,
        max_form_parts=16,
        silent=False,
    )
    try:
        _, form, files = parser.parse(
            request.stream, request.mimetype, request.content_length, request.mimetype_params
        )
    except ValueError as error:
        raise MalformedRequestError(f"the form cannot be read: {error}") from None
    fields = validated(UploadFields, _nested(form.to_dict()))
    file = files.get("file")
    if file is None or not upload.bytes:
        raise InvalidRequestError([FieldError("file", "is required, and must not be empty")])
    filename = (file.filename or "upload")[:FILENAME_CHARACTERS]
    seconds = fields.expires_after.seconds if fields.expires_after else settings.job_retention_seconds
    return upload.finish(filename, fields.purpose, seconds)


def _nested(form: dict[str, str]) -> dict[str, Any]:
    """Returns the fields, with those that are named `a[b]` in objects."""
    found: dict[str, Any] = {}
    for name, value in form.items():
        parts = re.fullmatch(r"(\w+)\[(\w+)\]", name)
        inner = found.setdefault(parts[1], {}) if parts else found
        if isinstance(inner, dict):
            inner[parts[2] if parts else name] = value
    return found


ReceivedFile = Annotated[FileRecord, Input(_receive, form=UploadForm, refusals=UPLOAD_REFUSALS)]
"""The file of an upload, stored."""
