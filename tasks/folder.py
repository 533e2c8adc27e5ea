"""The contents of files on disk, in FILES_DIR."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tasks.errors import FileDamagedError, FilesDirError

RETRY_SECONDS = 5
"""When a client may try again after the folder could not be used."""

ORPHAN_SECONDS = 3600.0
"""How long contents that no record names are kept after the last write to them: they may still arrive."""

Wait = Callable[[Callable[[], Any]], Any]
"""Calls a function that waits for the disk, and returns its result."""


def wait_here(call: Callable[[], Any]) -> Any:
    return call()


class Folder:
    """Keeps the contents of each file in a file of its own, named by its id. Methods may raise FilesDirError.

    wait: how calls that wait for the disk are made. A process that serves many clients in one thread passes
        one that uses other threads.
    """

    def __init__(self, path: Path, wait: Wait = wait_here) -> None:
        self._path = path
        self._wait = wait

    def append(self, file_id: str, data: bytes) -> None:
        """Appends to a file. Only after `sync` does the data survive a power cut."""

        def append() -> None:
            self._path.mkdir(parents=True, exist_ok=True)
            with (self._path / file_id).open("ab") as contents:
                contents.write(data)

        self._use(append)

    def sync(self, file_id: str) -> None:
        """Makes a file survive a power cut."""
        self._use(lambda: _sync(self._path / file_id))

    def store(self, file_id: str, pieces: Iterable[bytes]) -> None:
        """Stores a whole file. Two processes may do so at the same time, with the same pieces."""
        copy = f"{file_id}.{secrets.token_hex(4)}"
        for piece in pieces:
            self.append(copy, piece)

        def publish() -> None:
            (self._path / copy).rename(self._path / file_id)
            _sync(self._path / file_id)

        self._use(publish)

    def read(self, file_id: str, start: int, size: int) -> bytes:
        """Returns up to `size` bytes from a byte on. Raises FileDamagedError if there is no such file."""

        def read() -> bytes:
            with (self._path / file_id).open("rb") as contents:
                contents.seek(start)
                return contents.read(size)

        found: bytes = self._use(read)
        return found

    def remove(self, file_id: str) -> None:
        """Removes a file, if it is there."""
        self._use(lambda: (self._path / file_id).unlink(missing_ok=True))

    def old(self) -> list[str]:
        """Returns the names of the files that nothing was written to for ORPHAN_SECONDS."""

        def old() -> list[str]:
            before = time.time() - ORPHAN_SECONDS
            return [path.name for path in self._path.glob("file-*") if _is_old(path, before)]

        found: list[str] = self._use(old)
        return found

    def _use(self, call: Callable[[], Any]) -> Any:
        try:
            return self._wait(call)
        except FileNotFoundError as error:
            raise FileDamagedError(f"{Path(error.filename).name} is missing in FILES_DIR") from None
        except OSError as error:
            detail = f"FILES_DIR cannot be used: {error.strerror}"
            raise FilesDirError(detail, retry_after=RETRY_SECONDS) from error


def _sync(path: Path) -> None:
    """Writes a file and its name in the folder to the disk."""
    for one in (path, path.parent):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_old(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:
        return False  # Another process removed it meanwhile.
