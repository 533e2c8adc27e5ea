"""A submit whose answer from Redis is lost: the client is told that the outcome is unknown."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from harness.proxy import Proxy
from harness.redis_server import free_port
from harness.waiting import eventually
from tasks import keys
from tasks.connection import connect
from tasks.errors import OutcomeUnknownError, UnavailableError
from tasks.request import parse_request
from tasks.scripts import Scripts
from tasks.settings import Settings
from tasks.store import Store

REQUEST = parse_request({"prompt": "x"})


def store_on(redis_url: str) -> Store:
    settings = Settings(redis_url=redis_url, model_id="m")
    return Store(Scripts(connect(settings), settings, send_offers=lambda _offers: None))


def test_it_may_have_been_accepted_and_can_be_repeated(redis_url: str, redis: Redis) -> None:
    with Proxy(redis_url) as network, ThreadPoolExecutor() as threads:
        store = store_on(network.url)
        store.submit(REQUEST, "ada")  # The next call uses the same connection.
        network.hold_answers()
        coming = threads.submit(store.submit, REQUEST, "ada", "the same")
        eventually(lambda: redis.zcard(keys.owner_jobs("ada")) == 2)

        def has_given_up() -> bool:
            network.cut()
            return coming.done()

        eventually(has_given_up)
        with pytest.raises(OutcomeUnknownError, match="may have been accepted"):
            coming.result()
        network.heal()
        again = store.submit(REQUEST, "ada", "the same")
        assert not again.created
        assert redis.zcard(keys.owner_jobs("ada")) == 2


def test_a_submit_that_cannot_reach_redis_was_not_accepted() -> None:
    with pytest.raises(UnavailableError, match="nothing was accepted") as caught:
        store_on(f"redis://127.0.0.1:{free_port()}").submit(REQUEST, "ada")
    assert not isinstance(caught.value, OutcomeUnknownError)
