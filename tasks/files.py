"""Files as their owners see them: uploads, and what batches write. Contents are in Redis or in FILES_DIR."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from typing import Any, cast

from redis.client import NEVER_DECODE

from tasks import keys
from tasks.errors import (
    ConflictError,
    FieldError,
    FileDamagedError,
    InvalidRequestError,
    NoSuchFileError,
)
from tasks.folder import Folder, Wait, wait_here
from tasks.scripts import Scripts
from tasks.uploads import PIECE_BYTES, FileRecord, Upload


class Files:
    """Reads and removes files. Every method may raise redis.exceptions.RedisError, and FilesDirError.

    wait: how calls that wait for the disk are made.
    """

    def __init__(self, scripts: Scripts, wait: Wait = wait_here) -> None:
        self._scripts = scripts
        self._redis = scripts.redis
        path = scripts.settings.files_dir
        self._folder = None if path is None else Folder(path, wait)

    def upload(self, owner: str) -> Upload:
        return Upload(self._scripts, owner, self._folder)

    def get(self, file_id: str, owner: str | None = None) -> FileRecord:
        """Returns a file. `owner` None reads anybody's. Raises NoSuchFileError."""
        found = _record(cast("dict[str, str]", self._redis.hgetall(keys.file(file_id))))
        if found is None or (owner is not None and found.owner != owner):
            raise NoSuchFileError(f"there is no file {file_id}")
        return found

    def list_files(
        self, owner: str, purpose: str | None, limit: int, after: str | None, *, newest_first: bool
    ) -> tuple[list[FileRecord], bool]:
        """Returns files, and whether there are more. Raises InvalidRequestError without a file `after`."""
        ids = ids_after(self._redis, keys.files(owner), after, newest_first=newest_first)
        found: list[FileRecord] = []
        for start in range(0, len(ids), keys.MAX_JOBS_PER_CALL):
            pipe = self._redis.pipeline(transaction=False)
            for file_id in ids[start : start + keys.MAX_JOBS_PER_CALL]:
                pipe.hgetall(keys.file(file_id))
            records = [_record(fields) for fields in pipe.execute()]
            found += [one for one in records if one and purpose in (None, one.purpose)]
            if len(found) > limit:
                break
        return found[:limit], len(found) > limit

    def delete(self, file_id: str, owner: str) -> None:
        """Removes a file. Raises NoSuchFileError, and ConflictError while a batch uses it."""
        answer = self._scripts.call("delete_file", id=file_id, owner=owner)
        if answer.status == "not_found":
            raise NoSuchFileError(f"there is no file {file_id}")
        if answer.status == "in_use":
            raise ConflictError("a batch that has not ended uses this file; cancel it first")
        if answer["place"] == "disk":
            self.remove_contents(file_id)

    def pieces(self, file: FileRecord, start: int = 0) -> Iterator[bytes]:
        """Yields the contents from a byte on, up to the length that the record says.

        Raises FileDamagedError if they are missing or too short.
        """
        while start < file.bytes:
            piece = self._read(file, start, min(PIECE_BYTES, file.bytes - start))
            if not piece:
                raise FileDamagedError(f"the contents of {file.id} are missing from byte {start} on")
            yield piece
            start += len(piece)

    def start_of_line(self, file: FileRecord, line: int) -> int:
        """Returns the byte at which a line begins, counted from 0; the length if there are no more lines."""
        marks = cast(
            "list[tuple[str, float]]", self._redis.zrange(keys.marks(file.id), 0, -1, withscores=True)
        )
        known = [(0, 0), *((int(lines), int(at)) for at, lines in marks)]
        lines, at = known[bisect.bisect_right(known, line, key=lambda mark: mark[0]) - 1]
        if lines == line:
            return at
        for piece in self.pieces(file, at):
            inside = piece.count(b"\n")
            if lines + inside < line:
                lines, at = lines + inside, at + len(piece)
                continue
            end = -1
            for _ in range(line - lines):
                end = piece.index(b"\n", end + 1)
            return at + end + 1
        return file.bytes

    def move_to_disk(self, file_id: str) -> None:
        """Moves a file that does not grow any more to FILES_DIR, if that is set. Raises FileDamagedError."""
        try:
            file = self.get(file_id)
        except NoSuchFileError:
            return
        if self._folder is None or file.is_on_disk or not file.bytes:
            return
        self._folder.store(file_id, self.pieces(file))
        self._scripts.call("move_file", id=file_id, bytes=file.bytes)

    def remove_contents(self, file_id: str) -> None:
        """Removes contents on disk."""
        if self._folder is not None:
            self._folder.remove(file_id)

    def remove_orphans(self) -> None:
        """Removes contents on disk that no record names: a process died between two steps."""
        for name in self._folder.old() if self._folder else ():
            if not self._redis.exists(keys.file(name)):
                self.remove_contents(name)

    def _read(self, file: FileRecord, start: int, size: int) -> bytes:
        if not file.is_on_disk:
            arguments = ("GETRANGE", keys.content(file.id), start, start + size - 1)
            redis: Any = self._redis  # redis-py has no types for this.
            return bytes(redis.execute_command(*arguments, **{NEVER_DECODE: True}))
        if self._folder is None:
            raise FileDamagedError(f"{file.id} is in FILES_DIR, which this process does not have")
        return self._folder.read(file.id, start, size)


def ids_after(redis: Any, index: str, after: str | None, *, newest_first: bool = True) -> list[str]:
    """Returns the ids in a sorted set that come after another one.

    Raises InvalidRequestError if it has no `after`.
    """
    if after is None:
        return cast("list[str]", redis.zrange(index, 0, -1, desc=newest_first))
    rank = redis.zrevrank(index, after) if newest_first else redis.zrank(index, after)
    if rank is None:
        raise InvalidRequestError([FieldError("after", f"there is no {after}")])
    return cast("list[str]", redis.zrange(index, rank + 1, -1, desc=newest_first))


def _record(fields: Mapping[str, str]) -> FileRecord | None:
    """Returns a file that its owner may see; None if it is not there or still arriving."""
    if not fields or "filename" not in fields:
        return None
    return FileRecord(
        fields["id"],
        fields["owner"],
        fields["filename"],
        fields["purpose"],
        int(fields["bytes"]),
        int(fields.get("lines", 0)),
        float(fields["created_at"]),
        float(fields["expires_at"]) if "expires_at" in fields else None,
        is_open=fields["status"] == "open",
        is_on_disk=fields["place"] == "disk",
    )
