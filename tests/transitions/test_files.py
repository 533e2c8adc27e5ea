"""The scripts of files: each rule by itself, and each call repeated."""

from __future__ import annotations

import pytest
from redis import Redis

from tasks import keys
from tasks.batch import Span
from tasks.errors import FilesOverShareError, NoSuchFileError, OverShareError, UnavailableError
from tasks.files import Files
from tasks.scripts import Scripts
from tasks.settings import Settings
from tasks.uploads import PIECE_BYTES
from tests.transitions.batch_harness import BatchHarness


def test_a_file_is_stored_piece_by_piece(batches: BatchHarness) -> None:
    contents = b"\xff\n" * PIECE_BYTES
    file = batches.file(contents)
    assert b"".join(batches.files.pieces(file)) == contents
    assert batches.files.list_files("ada", None, 10, None, newest_first=True) == ([file], False)
    assert batches.redis.hgetall(keys.PREFIX + "file_bytes") == {"ada": str(len(contents))}
    with pytest.raises(NoSuchFileError):
        batches.files.get(file.id, "bob")
    with pytest.raises(NoSuchFileError):
        batches.files.delete(file.id, "bob")


def test_a_deleted_file_leaves_nothing(batches: BatchHarness, redis: Redis) -> None:
    before = set(redis.keys("*"))
    file = batches.file()
    Files(batches.scripts).delete(file.id, "ada")
    assert set(redis.keys("*")) == before


def test_a_piece_after_a_lost_one_is_refused(batches: BatchHarness) -> None:
    upload = batches.files.upload("ada")
    upload.write(b"x" * PIECE_BYTES)
    batches.redis.delete(keys.file(upload.id))
    with pytest.raises(UnavailableError):
        upload.write(b"x" * PIECE_BYTES)


def test_an_owners_files_and_jobs_share_the_memory(
    redis: Redis, settings: Settings, batches: BatchHarness
) -> None:
    small = Settings.model_validate(
        settings.model_dump() | {"owner_files_bytes": 100, "api_keys": {"k": "ada"}}
    )
    files = Files(Scripts(redis, small, batches.send_offers))
    upload = files.upload("ada")
    upload.write(b"x" * 101)
    with pytest.raises(FilesOverShareError):
        upload.finish("a", "batch", 60)
    redis.set(keys.PREFIX + "maxmemory", 1000)
    redis.hset(keys.PREFIX + "bytes", "ada", 450)
    upload = files.upload("ada")
    upload.write(b"x" * 60)
    with pytest.raises(OverShareError):
        upload.finish("a", "batch", 60)
    redis.set(keys.PREFIX + "nearly_full", 1)
    with pytest.raises(UnavailableError):
        batches.file()


def test_lines_are_found_by_their_number(batches: BatchHarness) -> None:
    batch = batches.started(total=600)
    for start in range(0, 600, 100):
        texts = [f"line {start + i}" for i in range(100)]
        at = Span(start // 100, start // 100 + 1, start + 100)
        assert batches.batches.skip(batch, at, texts) in ("skipped", "moved")
    file = batches.files.get(str(batch.error_file_id))
    assert file.lines == 600
    assert batches.redis.zcard(keys.marks(file.id)) == 2
    whole = b"".join(batches.files.pieces(file))
    for number in (0, 1, 255, 256, 257, 399, 599):
        at_byte = batches.files.start_of_line(file, number)
        assert whole[at_byte:].startswith(b"line %d\n" % number)
    assert batches.files.start_of_line(file, 600) == batches.files.start_of_line(file, 9999) == len(whole)
