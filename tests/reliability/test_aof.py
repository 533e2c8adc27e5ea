"""Redis restarts without its last writes: jobs that it still has continue, jobs that it forgot end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from redis import Redis

from client import Client, NotFoundError
from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tests.chaos.fleet import Fleet
from tests.integration.jobs import words
from tests.reliability.followers import Followed, assert_all_work, following, wait_until_seen

SLOTS = 4
LOST_BYTES = 16 * 1024
"""Some tenths of a second of these jobs. With `appendfsync everysec`, Redis may lose at most a second."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path, 2, {"MAX_NUM_SEQS": str(SLOTS), "LEASE_SECONDS": "2"})
    yield running
    running.stop()


@pytest.fixture
def log(fleet: Fleet, tmp_path: Path) -> Path:
    """The append-only file of the fleet's Redis."""
    assert fleet.redis_url
    return tmp_path / "appendonly.aof"


def command_ends(log: bytes) -> list[int]:
    """Returns where each command of an append-only file ends.

    A command is `*COUNT`, then COUNT times `$LENGTH` and data.
    """
    ends, position = list[int](), 0

    def number() -> int:
        nonlocal position
        end = log.index(b"\r\n", position)
        value, position = int(log[position + 1 : end]), end + 2
        return value

    with suppress(ValueError):  # The last command may be incomplete.
        while True:
            for _ in range(number()):
                length = number()
                position += length + 2
            ends.append(position)
    return ends


def lose_tail(log: Path, keep: int, into_a_command: int) -> None:
    """Cuts LOST_BYTES or a little more off the file.

    The cut is at a command's end, or `into_a_command` bytes after it.
    """
    content = log.read_bytes()
    cut = max(end for end in command_ends(content) if end <= len(content) - LOST_BYTES)
    assert cut > keep, "the test did not wait long enough"
    with log.open("r+b") as file:
        file.truncate(cut + into_a_command)


@pytest.mark.parametrize(
    "into_a_command", [0, 1, 9], ids=["between commands", "inside a count", "inside a part"]
)
def test_readers_do_not_see_entries_again_that_redis_forgot(
    fleet: Fleet, log: Path, into_a_command: int
) -> None:
    """The worker writes them again, and the readers have them already."""
    with Redis.from_url(fleet.redis_url) as redis, following(fleet.web.url, 4, tokens=200) as jobs:
        claimed = log.stat().st_size
        wait_until_seen(jobs, 60)
        # So that the test sees what Redis has before the workers write the rest again.
        for worker in fleet.workers:
            worker.signal(signal.SIGSTOP)
        fleet.kill_redis()
        seen = {job.id: min(len(job.library), len(job.bare)) for job in jobs}
        lose_tail(log, claimed, into_a_command)
        fleet.start_redis()
        remembered = {job.id: int(redis.llen(keys.log(job.id))) for job in jobs}
        for worker in fleet.workers:
            worker.signal(signal.SIGCONT)
        assert all(0 < remembered[job.id] < seen[job.id] for job in jobs), (remembered, seen)
        for job in jobs:
            job.assert_whole()
    assert_all_work(fleet, SLOTS)


@pytest.mark.parametrize("in_line", [False, True], ids=["on offer", "in line"])
def test_a_claim_that_redis_forgot_is_made_again_by_its_worker(
    fleet: Fleet, log: Path, in_line: bool
) -> None:
    """It does so before another worker claims the job, which would write the text in other pieces."""
    with Client(fleet.web.url) as client:
        for worker in fleet.workers:
            worker.signal(signal.SIGSTOP)
        if in_line:
            eventually(lambda: not httpx.get(f"{fleet.web.url}/health").json()["workers"])
        job = Followed(client, fleet.web.url, words("w", 200))
        unclaimed = log.stat().st_size
        for worker in fleet.workers:
            worker.signal(signal.SIGCONT)
        wait_until_seen([job], 20)
        # Steps in quick succession make one entry, and a second attempt would split them differently.
        fleet.pause_redis()
        time.sleep(0.3)
        fleet.resume_redis()
        wait_until_seen([job], 40)
        fleet.kill_redis()
        with log.open("r+b") as file:
            file.truncate(unclaimed)
        fleet.start_redis()
        job.assert_whole()
        assert len(job.job().fields["attempts"]) == 1
    assert_all_work(fleet, SLOTS)


def test_a_job_that_redis_forgot_ends_for_its_readers_and_its_worker(fleet: Fleet, log: Path) -> None:
    with Client(fleet.web.url) as client, following(fleet.web.url, 1, tokens=3000) as [kept]:
        before = log.stat().st_size
        with following(fleet.web.url, 1, tokens=3000, seen=20) as [forgotten]:
            fleet.kill_redis()
            with log.open("r+b") as file:
                file.truncate(before)
            fleet.start_redis()
            assert_gone(forgotten)
        wait_until_seen([kept], kept.seen + 20)
        client.cancel(kept.id)
        assert len(client.wait(kept.id, timeout=TIMEOUT_SECONDS).fields["attempts"]) == 1
    assert_all_work(fleet, SLOTS)


def assert_gone(job: Followed) -> None:
    library, bare = job.readers
    with pytest.raises(NotFoundError):
        library.result(TIMEOUT_SECONDS)
    bare.result(TIMEOUT_SECONDS)
    assert job.bare[-1]["type"] != "done"
    with pytest.raises(NotFoundError):
        job.job()
