"""Redis fails over to a replica while the old master lives on as a replica: every connection moves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from redis import Redis

from client import Client
from harness.product import Web
from harness.proxy import Proxy
from harness.redis_server import start_redis
from harness.waiting import TIMEOUT_SECONDS, eventually
from harness.workers import WorkerProcess
from tasks.connection import connect
from tasks.failover import ReplicaError
from tasks.settings import Settings
from tests.integration.jobs import words
from tests.reliability.followers import following

SETTINGS = {
    **{"ENGINE": "echo", "ECHO_STEP_SECONDS": "0.02", "MAX_NUM_SEQS": "4", "LEASE_SECONDS": "2"},
    "STEP_TIMEOUT_SECONDS": "60",
}


class Pair:
    """A master and its replica, with an address that can move from one to the other."""

    def __init__(self, folder: Path) -> None:
        self._exits = ExitStack()
        self.old_url, self.old = self._start(folder / "old")
        self.new_url, self.new = self._start(folder / "new")
        self.new.replicaof(*self._place(self.old))
        eventually(lambda: self.old.wait(1, 100) == 1 and self.new.info()["master_link_status"] == "up")
        self.address = self._exits.enter_context(Proxy(self.old_url))

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def fall_over(self) -> None:
        """Makes the replica the master. No write is lost, and connections to the old master stay open."""
        hand_over(self.old)
        eventually(lambda: self.new.role()[0] == b"master" and self.old.role()[0] == b"slave")

    def connections(self, redis: Redis) -> int:
        """Returns the number of connections, except for this test's and those of replication."""
        own = redis.client_id()
        return sum(one["flags"] not in ("M", "S") and one["id"] != str(own) for one in redis.client_list())

    def _start(self, folder: Path) -> tuple[str, Redis]:
        folder.mkdir()
        process, url = start_redis(folder, "--repl-diskless-sync-delay", "0", "--repl-diskless-sync", "yes")
        self._exits.callback(process.wait)
        self._exits.callback(process.kill)
        return url, self._exits.enter_context(Redis.from_url(url, single_connection_client=True))

    @staticmethod
    def _place(redis: Redis) -> tuple[str, int]:
        return "127.0.0.1", redis.connection_pool.connection_kwargs["port"]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Pair(tmp_path) as started:
        yield started


@pytest.fixture
def web(pair: Pair, tmp_path: Path) -> Iterator[Web]:
    worker = WorkerProcess("w", SETTINGS | {"REDIS_URL": pair.address.url}, tmp_path / "worker.log")
    try:
        worker.wait_until_ready()
        with Web(pair.address.url, tmp_path, SETTINGS).started() as web:
            yield web
        assert worker.process.poll() is None, worker.output()
    finally:
        worker.process.kill()
        worker.process.wait()


def test_an_address_that_moves_takes_all_connections_along(pair: Pair, web: Web) -> None:
    with following(web.url, jobs=2, tokens=200) as jobs:
        pair.fall_over()
        pair.address.lead_to(pair.new_url)
        for job in jobs:
            job.assert_whole()
    assert_works(web)
    eventually(lambda: pair.connections(pair.old) == 0)


def test_a_replica_that_is_promoted_late_costs_a_pause(pair: Pair, web: Web) -> None:
    """For a while, the address leads to a replica that refuses to write. Jobs keep running."""
    with following(web.url, jobs=2, tokens=200) as jobs:
        pair.fall_over()
        eventually(lambda: refusal_of_a_submit(web) == "unavailable")
        time.sleep(1.0)  # The outage.
        pair.address.lead_to(pair.new_url)
        for job in jobs:
            job.assert_whole()
    assert_works(web)
    eventually(lambda: pair.connections(pair.old) == 0)


def test_a_replica_that_becomes_the_master_again_is_used(pair: Pair, web: Web) -> None:
    """The address does not change, because the failover was called off."""
    pair.fall_over()
    eventually(lambda: refusal_of_a_submit(web))
    hand_over(pair.new)
    assert_works(web)


def hand_over(master: Redis) -> None:
    master.execute_command("FAILOVER")  # type: ignore[no-untyped-call]


def refusal_of_a_submit(web: Web) -> str | None:
    """Returns the error code; None if the submit was accepted."""
    answer = httpx.post(f"{web.url}/v1/jobs", json={"prompt": "x", "max_tokens": 1}, timeout=TIMEOUT_SECONDS)
    return None if answer.is_success else str(answer.json()["code"])


def assert_works(web: Web) -> None:
    with Client(web.url, retry_seconds=TIMEOUT_SECONDS) as client:
        job = client.submit(words("after", 20), max_tokens=20)
        assert client.wait(job.id, timeout=TIMEOUT_SECONDS).text == words("after", 20)
        eventually(lambda: httpx.get(f"{web.url}/health/ready").status_code == 200)


def test_a_connection_that_only_listens_moves_with_those_that_write(pair: Pair) -> None:
    settings = Settings(redis_url=pair.address.url)
    with connect(settings) as writer, connect(settings) as reader, reader.pubsub() as listener:
        writer.set("k", "v")
        listener.subscribe("channel")
        assert listener.get_message(timeout=TIMEOUT_SECONDS)
        pair.fall_over()
        with pytest.raises(ReplicaError):
            writer.set("k", "w")
        with pytest.raises(ReplicaError):
            reader.get("k")
        pair.address.lead_to(pair.new_url)
        assert writer.set("k", "w")
        assert reader.get("k") == "w"
        eventually(lambda: listener.get_message(timeout=0.1) or pair.new.pubsub_numsub("channel")[0][1])
        assert pair.connections(pair.old) == 0
