"""The client that web and workers reach Redis with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from redis import Redis

from tasks.connection import MAX_CONNECTIONS, connect
from tasks.settings import Settings

CALLERS = 3 * MAX_CONNECTIONS
HOLD_SECONDS = 0.1


def test_a_burst_of_calls_is_served_by_few_connections(settings: Settings, redis: Redis) -> None:
    client = connect(settings)
    together = Barrier(CALLERS)

    def call(_: int) -> object:
        together.wait()
        return client.blpop("nothing comes", HOLD_SECONDS)

    before = len(redis.client_list())
    with ThreadPoolExecutor(CALLERS) as pool:
        assert list(pool.map(call, range(CALLERS))) == [None] * CALLERS
    assert len(redis.client_list()) - before == MAX_CONNECTIONS
    client.close()
