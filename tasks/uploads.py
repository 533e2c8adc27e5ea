"""Stores files that arrive piece by piece, in Redis or in FILES_DIR."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from tasks.errors import FilesOverShareError, OverShareError, TokenrelayError, UnavailableError
from tasks.folder import Folder
from tasks.scripts import Answer, Scripts
from tasks.submission import MEMORY_RETRY_SECONDS

PIECE_BYTES = 256 * 1024
"""Contents are read and written in pieces of this size. Redis takes a tenth of a millisecond for one."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """bytes: its length. lines: of a batch's file. expires_at: None while a batch appends to it."""

    id: str
    owner: str
    filename: str
    purpose: str
    bytes: int
    lines: int
    created_at: float
    expires_at: float | None
    is_open: bool
    """A batch appends to it."""
    is_on_disk: bool


class Upload:
    """A file that is arriving, piece by piece. folder: for its contents; None to store them in Redis."""

    def __init__(self, scripts: Scripts, owner: str, folder: Folder | None) -> None:
        self._scripts = scripts
        self._owner = owner
        self._folder = folder
        self.id = f"file-{secrets.token_hex(16)}"
        self.bytes = 0
        self._pending = bytearray()

    def write(self, data: bytes) -> int:
        """Takes the next bytes.

        Raises FilesOverShareError, OverShareError, UnavailableError and redis.exceptions.RedisError.
        """
        self._pending += data
        self.bytes += len(data)
        while len(self._pending) >= PIECE_BYTES:
            self._store(bytes(self._pending[:PIECE_BYTES]))
            del self._pending[:PIECE_BYTES]
        return len(data)

    def finish(self, filename: str, purpose: str, seconds: float) -> FileRecord:
        """Shows the file to its owner. seconds: how long it is kept. Raises what `write` raises."""
        if self._pending:
            self._store(bytes(self._pending))
            self._pending.clear()
        if self._folder:
            self._folder.sync(self.id)
        answer = self._scripts.call(
            "finish_upload",
            id=self.id,
            owner=self._owner,
            filename=filename,
            purpose=purpose,
            place="disk" if self._folder else "redis",
            bytes=self.bytes,
            seconds=seconds,
            **_limits(self._scripts),
        )
        if answer.status != "stored":
            raise _refusal(answer)
        created_at, expires_at = float(answer["created_at"]), float(answer["expires_at"])
        return FileRecord(
            self.id,
            self._owner,
            filename,
            purpose,
            self.bytes,
            0,
            created_at,
            expires_at,
            is_open=False,
            is_on_disk=self._folder is not None,
        )

    def discard(self) -> None:
        """Removes what has arrived. Without this, it would be removed after ten minutes."""
        self._scripts.call("delete_file", id=self.id, owner=self._owner)
        if self._folder:
            self._folder.remove(self.id)

    def _store(self, piece: bytes) -> None:
        at = self.bytes - len(self._pending)
        if self._folder:
            self._folder.append(self.id, piece)
            return
        answer = self._scripts.call(
            "append_upload", id=self.id, owner=self._owner, at=at, data=piece, **_limits(self._scripts)
        )
        if answer.status != "appended":
            raise _refusal(answer)


def _limits(scripts: Scripts) -> dict[str, float]:
    settings = scripts.settings
    return {"most_bytes": settings.owner_files_bytes, "memory_share": settings.own_share}


def _refusal(answer: Answer) -> TokenrelayError:
    match answer.status:
        case "over_files":
            return FilesOverShareError(retry_after=MEMORY_RETRY_SECONDS)
        case "over_share":
            return OverShareError(retry_after=MEMORY_RETRY_SECONDS)
        case "nearly_full":
            return UnavailableError("Redis is nearly full", retry_after=MEMORY_RETRY_SECONDS)
        case "lost":
            detail = "Redis lost what had arrived of the file; nothing was accepted"
            return UnavailableError(detail, retry_after=1)
        case _:
            raise AssertionError(f"an upload was answered {answer.status!r}")
